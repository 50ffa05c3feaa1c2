"""DICOM: which files are one series, and how they become a volume."""
