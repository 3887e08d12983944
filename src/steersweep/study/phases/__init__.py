"""The phases of a study, one file each; `registry` holds their order."""
