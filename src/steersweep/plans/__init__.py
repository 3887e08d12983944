"""Study plans that come with the package."""
