"""DuckDB, row-level cleaning: all eight columns checked and typed, good rows to Parquet, bad aside."""

import sys

import duckdb

data, out = sys.argv[1:3]
con = duckdb.connect()
con.execute("set preserve_insertion_order = false")
con.execute(f"""
copy (
    select * from read_csv('{data}/sales_*.csv', header = true, auto_detect = false, delim = ',',
        quote = '"', escape = '"', store_rejects = true, rejects_limit = 0, columns = {{
            'transaction_id': 'BIGINT', 'store_id': 'INTEGER', 'sale_date': 'DATE',
            'sold_at': 'TIMESTAMP', 'product': 'VARCHAR', 'quantity': 'INTEGER',
            'amount': 'DECIMAL(12,2)', 'payment_method': 'VARCHAR'}})
    where amount >= 0 and store_id is not null and sale_date is not null
        and transaction_id is not null
) to '{out}/result.parquet' (compression zstd)
""")
