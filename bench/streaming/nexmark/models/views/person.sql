select
    person_id as id, person_name as name, person_email as email_address,
    person_credit_card as credit_card, person_city as city, person_state as state,
    date_time, person_extra as extra
from {{ source('nexmark', 'events') }}
where event_type = 0
