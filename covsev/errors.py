"""The errors that covsev raises on bad input. Each message names the file or argument and what to do."""


class CovsevError(ValueError):
    """Base of all errors about input that covsev cannot work with.

    Attributes:
        code: short stable name of the reason, for tables.
    """

    code = "error"


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
