-- The tables of the food delivery; ${…} are filled in by the benchmark.
CREATE TABLE orders (
    order_id BIGINT, customer_id BIGINT, restaurant_id BIGINT, city STRING, status STRING,
    amount DECIMAL(10, 2), event_time TIMESTAMP_LTZ(3),
    WATERMARK FOR event_time AS event_time - INTERVAL '5' SECOND
) WITH (
    'connector' = 'kafka',
    'topic' = '${orders_topic}',
    'properties.bootstrap.servers' = '${broker}',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'properties.isolation.level' = 'read_committed',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
);
CREATE TABLE couriers (
    courier_id BIGINT, order_id BIGINT, city STRING, event STRING, event_time TIMESTAMP_LTZ(3),
    WATERMARK FOR event_time AS event_time - INTERVAL '5' SECOND
) WITH (
    'connector' = 'kafka',
    'topic' = '${couriers_topic}',
    'properties.bootstrap.servers' = '${broker}',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'properties.isolation.level' = 'read_committed',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
);
CREATE VIEW placed AS
SELECT order_id, city, amount, event_time FROM orders WHERE status = 'placed';
CREATE VIEW delivered AS
SELECT order_id, courier_id, event_time FROM couriers WHERE event = 'delivered';
