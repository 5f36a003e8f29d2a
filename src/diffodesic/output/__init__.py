"""Whole files and folders, resumable stages, pictures, figures and pages."""
