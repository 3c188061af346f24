"""Elasticsearch or OpenSearch, over the HTTP interface that both speak."""
