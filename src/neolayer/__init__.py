"""The whole data layer of a multi-tenant blockchain service, run as one system."""

__version__ = "0.1.0"
