"""Polars, bad rows kept: values are read as text and cast by us, what fails is written aside.

A ninth column that no file has catches records with a column too many.
"""

import sys

import polars as pl

data, out = sys.argv[1:3]
columns = [
    "transaction_id", "store_id", "sale_date", "sold_at", "product", "quantity", "amount",
    "payment_method", "_extra",
]
rows = pl.scan_csv(
    f"{data}/sales_*.csv",
    schema={name: pl.String for name in columns},
    missing_columns="insert",
    include_file_paths="_file",
)
typed = rows.with_columns(
    pl.col("store_id").cast(pl.Int32, strict=False).alias("t_store"),
    pl.col("sale_date").str.to_date("%Y-%m-%d", strict=False).alias("t_date"),
    pl.col("amount").cast(pl.Decimal(12, 2), strict=False).alias("t_amount"),
)
good = (
    pl.col("t_store").is_not_null()
    & pl.col("t_date").is_not_null()
    & (pl.col("t_amount") >= 0).fill_null(False)
    & pl.col("transaction_id").is_not_null()
    & pl.col("payment_method").is_not_null()
    & pl.col("_extra").is_null()
)
result = (
    typed.filter(good)
    .group_by("t_date", "t_store")
    .agg(pl.len().alias("transactions"), pl.col("t_amount").sum().alias("amount"))
    .rename({"t_date": "sale_date", "t_store": "store_id"})
)
dead = typed.filter(~good).select([*columns, "_file"])
result, dead = pl.collect_all([result, dead], engine="streaming")
result.write_parquet(f"{out}/result.parquet")
dead.write_parquet(f"{out}/dead.parquet")
print(dead.height)
