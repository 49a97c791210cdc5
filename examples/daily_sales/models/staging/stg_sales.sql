{{ config(
    materialized='incremental',
    unique_key='transaction_id',
    partition_by='sale_date',
    event_time='sale_date',
    on_schema_change='append_new_columns'
) }}

-- A night reads only the files that are new. POS systems send some transactions twice, in one file
-- or in the next: the first one counts.
select
    transaction_id,
    store_id,
    sale_date,
    sold_at,
    trim(product) as product,
    quantity,
    amount,
    lower(payment_method) as payment_method
from {{ source('pos', 'sales') }}
qualify row_number() over (partition by transaction_id order by _file, _offset) = 1
