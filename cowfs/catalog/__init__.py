"""The owner side's book-keeping: control log, tables, names and references."""

from cowfs.catalog.catalog import Catalog, CatalogStatistics

__all__ = ["Catalog", "CatalogStatistics"]
