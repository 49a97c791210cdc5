"""Polars, row-level cleaning: all eight columns checked and typed, good rows to Parquet, bad aside."""

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
)
typed = rows.select(
    pl.col("transaction_id").cast(pl.Int64, strict=False),
    pl.col("store_id").cast(pl.Int32, strict=False),
    pl.col("sale_date").str.to_date("%Y-%m-%d", strict=False),
    pl.col("sold_at").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False),
    "product",
    pl.col("quantity").cast(pl.Int32, strict=False),
    pl.col("amount").cast(pl.Decimal(12, 2), strict=False),
    "payment_method",
    "_extra",
)
good = (
    pl.all_horizontal(pl.col(columns[:8]).is_not_null())
    & (pl.col("amount") >= 0).fill_null(False)
    & pl.col("_extra").is_null()
)
typed.filter(good).select(columns[:8]).sink_parquet(
    f"{out}/result.parquet", compression="zstd", compression_level=1
)
