-- Every order once, in its latest state: a run reads the new files and merges them in by `order_id`.
{{ config(materialized='incremental', unique_key='order_id') }}

select
    order_id,
    customer_id,
    ordered_at,
    status,
    amount
from {{ source('shop', 'orders') }}
qualify row_number() over (partition by order_id order by date desc) = 1
