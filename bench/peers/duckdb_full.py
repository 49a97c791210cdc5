"""DuckDB, the whole nightly job: bad rows kept aside, values cleaned, one row of each transaction
kept (those that are sent twice are alike), the rows written, then sums by store and day and by region.
"""

import sys

import duckdb

data, out, stores = sys.argv[1:4]
con = duckdb.connect()
con.execute("set preserve_insertion_order = false")
con.execute(f"""
copy (
    select distinct on (transaction_id)
        transaction_id, store_id, sale_date, sold_at, trim(product) as product, quantity, amount,
        lower(payment_method) as payment_method
    from read_csv('{data}/sales_*.csv', header = true, auto_detect = false, delim = ',',
        quote = '"', escape = '"', store_rejects = true, rejects_limit = 0, columns = {{
            'transaction_id': 'BIGINT', 'store_id': 'INTEGER', 'sale_date': 'DATE',
            'sold_at': 'TIMESTAMP', 'product': 'VARCHAR', 'quantity': 'INTEGER',
            'amount': 'DECIMAL(12,2)', 'payment_method': 'VARCHAR'}})
    where amount >= 0 and store_id is not null and sale_date is not null
        and transaction_id is not null and product is not null
) to '{out}/stg_sales.parquet' (compression zstd)
""")
con.execute(f"""
copy (
    select store_id, sale_date, count(*) as transactions, sum(quantity) as items,
        sum(amount) as revenue
    from '{out}/stg_sales.parquet' group by all
) to '{out}/result.parquet'
""")
print(len(con.execute(f"""
    select region, sale_date, count(distinct store_id), sum(revenue)
    from '{out}/result.parquet' join read_csv('{stores}') using (store_id) group by all
""").fetchall()))
