"""A model for data engines: Ray Data, Daft, Dask, Spark, and tables of pandas and pyarrow."""

from __future__ import annotations

from linnet.engine.batch.predictor import Predictor as Predictor
