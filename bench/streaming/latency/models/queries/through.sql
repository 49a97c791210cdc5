-- Nothing but the way through.
select id, sent from {{ source('topics', 'events') }}
