{{ config(
    materialized='incremental',
    incremental_strategy='microbatch',
    event_time='sale_date',
    batch_size='day',
    begin='2020-01-01',
    lookback=0,
    partition_by='sale_date',
    load={'mode': 'replace_interval', 'table': 'daily_sales'}
) }}

-- Each day that a night's new rows touch is computed again as a whole.
select
    store_id,
    sale_date,
    count(*) as transactions,
    sum(quantity) as items,
    cast(sum(amount) as decimal(18, 2)) as revenue
from {{ ref('stg_sales') }}
group by store_id, sale_date
