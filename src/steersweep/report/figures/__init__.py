"""Figures for papers: SVG and PNG, sized for one or two columns, told apart without colour."""
