"""Options, whole files and folders, resumable stages, pictures, tables, figures and pages."""
