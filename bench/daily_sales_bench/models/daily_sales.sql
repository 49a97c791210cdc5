{{ config(materialized='table') }}

select sale_date, store_id, count(*) as transactions, sum(amount) as amount
from {{ source('pos', 'sales') }}
group by sale_date, store_id
