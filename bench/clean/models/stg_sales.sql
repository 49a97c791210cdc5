{{ config(materialized='table') }}

select
    transaction_id, store_id, sale_date, sold_at, product, quantity, amount, payment_method
from {{ source('pos', 'sales') }}
