"""DuckDB, bad rows kept: its own table of rejects, and a second one for what the contract forbids."""

import sys

import duckdb

data, out = sys.argv[1:3]
con = duckdb.connect()
con.execute(f"""
create temp table good as
select sale_date, store_id, count(*) as transactions, sum(amount) as amount,
       (amount >= 0 and store_id is not null and sale_date is not null
        and transaction_id is not null) as ok
from read_csv('{data}/sales_*.csv', header = true, auto_detect = false, delim = ',', quote = '"',
    escape = '"', store_rejects = true, rejects_limit = 0, columns = {{
        'transaction_id': 'BIGINT', 'store_id': 'INTEGER', 'sale_date': 'DATE',
        'sold_at': 'TIMESTAMP', 'product': 'VARCHAR', 'quantity': 'INTEGER',
        'amount': 'DECIMAL(12,2)', 'payment_method': 'VARCHAR'}})
group by all
""")
con.execute(f"""copy (select sale_date, store_id, transactions, amount from good where ok)
    to '{out}/result.parquet'""")
con.execute(f"copy (select * from reject_errors) to '{out}/dead.parquet'")
broken = con.execute("select count(distinct (file_id, line)) from reject_errors").fetchone()[0]
forbidden = con.execute("select coalesce(sum(transactions), 0) from good where not coalesce(ok, false)")
print(broken + int(forbidden.fetchone()[0]))
