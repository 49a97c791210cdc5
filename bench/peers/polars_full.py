"""Polars, the whole nightly job: bad rows kept aside, values cleaned, the first of each transaction
kept in the order of files and lines, the rows written, then sums by store and day and by region.
"""

import sys

import polars as pl

data, out, stores = sys.argv[1:4]
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
    pl.col("transaction_id").cast(pl.Int64, strict=False).alias("t_transaction"),
    pl.col("store_id").cast(pl.Int32, strict=False).alias("t_store"),
    pl.col("sale_date").str.to_date("%Y-%m-%d", strict=False).alias("t_date"),
    pl.col("sold_at").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False).alias("t_sold"),
    pl.col("quantity").cast(pl.Int32, strict=False).alias("t_quantity"),
    pl.col("amount").cast(pl.Decimal(12, 2), strict=False).alias("t_amount"),
)
good = (
    pl.all_horizontal(
        pl.col(
            "t_transaction", "t_store", "t_date", "t_sold", "t_quantity", "t_amount", "product",
            "payment_method",
        ).is_not_null()
    )
    & (pl.col("t_amount") >= 0).fill_null(False)
    & pl.col("_extra").is_null()
)
staged = (
    typed.filter(good)
    .unique(subset="t_transaction", keep="first", maintain_order=True)
    .select(
        pl.col("t_transaction").alias("transaction_id"),
        pl.col("t_store").alias("store_id"),
        pl.col("t_date").alias("sale_date"),
        pl.col("t_sold").alias("sold_at"),
        pl.col("product").str.strip_chars(" "),
        pl.col("t_quantity").alias("quantity"),
        pl.col("t_amount").alias("amount"),
        pl.col("payment_method").str.to_lowercase(),
    )
)
dead = typed.filter(~good).select([*columns, "_file"])
pl.collect_all(
    [
        staged.sink_parquet(f"{out}/stg_sales.parquet", compression="zstd", compression_level=1, lazy=True),
        dead.sink_parquet(f"{out}/dead.parquet", lazy=True),
    ],
    engine="streaming",
)
daily = (
    pl.scan_parquet(f"{out}/stg_sales.parquet")
    .group_by("store_id", "sale_date")
    .agg(
        pl.len().alias("transactions"),
        pl.col("quantity").sum().alias("items"),
        pl.col("amount").sum().alias("revenue"),
    )
    .collect(engine="streaming")
)
daily.write_parquet(f"{out}/result.parquet")
regions = pl.read_csv(stores).join(daily, on="store_id").group_by("region", "sale_date").agg(
    pl.col("store_id").n_unique().alias("stores"), pl.col("revenue").sum()
)
print(regions.height)
