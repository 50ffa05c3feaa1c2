"""The errors that covsev raises on bad input. Each message names the file or argument, and says what to do."""


class CovsevError(ValueError):
    """Base of all errors about input that covsev cannot work with.

    Attributes:
        code: short stable name of the reason, for tables.
    """

    # The fallback of classes and calls that name no closer reason. Tables of many scans hold the code, not the text:
    # texts may be reworded, codes must stay.
    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """An error with ``message``; ``code`` names the reason more closely than the class does."""
        super().__init__(message)
        self.code = code or type(self).code


class ScanError(CovsevError):
    """A scan that cannot be read, or is not a chest CT volume."""

    code = "unreadable"


class GridMismatchError(CovsevError):
    """Two volumes that should lie on one grid do not."""

    code = "grid_mismatch"


class LungsNotFoundError(CovsevError):
    """No lung was found in a scan."""

    code = "no_lungs"


class BundleError(CovsevError):
    """A bundle folder, its configuration or its weights are missing or broken."""

    code = "bundle"


class SettingError(CovsevError):
    """A device, runtime or precision that covsev does not know or this machine does not have."""

    code = "setting"


class WorkerError(CovsevError):
    """A process that should assess scans could not be started, or a cluster could not be reached."""

    code = "worker"


class LabelError(CovsevError):
    """A label map whose values mean nothing that covsev knows, or more than one thing."""

    code = "labels"


class DicomWebError(CovsevError):
    """A DICOMweb server cannot be reached, refuses, or does not have what was asked for."""

    code = "dicomweb"
