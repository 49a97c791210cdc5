"""Topics of the benchmark: makes, fills, reads and removes them, by librdkafka.

    topics.py fill BROKER TOPIC PARTITIONS FILE…   a file a partition, or one that is dealt out
    topics.py create BROKER TOPIC PARTITIONS
    topics.py read BROKER TOPIC FILE               committed values, a line each; prints their number
    topics.py count BROKER TOPIC                   prints how many records it has; 0 without it
    topics.py delete BROKER TOPIC
"""

import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

# Lines that one partition gets before the next one's turn.
TURN = 500


def delete(client, topic):
    if topic not in client.list_topics(timeout=30).topics:
        return
    for future in client.delete_topics([topic]).values():
        future.result()
    while topic in client.list_topics(timeout=30).topics:
        time.sleep(0.1)


def create(client, topic, partitions):
    delete(client, topic)
    # Kept for as long as the folder of the services is: the next run uses it again.
    config = {"retention.ms": "-1", "retention.bytes": "-1"}
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=config)
    for future in client.create_topics([new]).values():
        future.result()
    # A topic is made before all know who leads it.
    while True:
        known = client.list_topics(topic, timeout=30).topics[topic]
        if known.error is None and len(known.partitions) == partitions:
            if all(partition.leader >= 0 for partition in known.partitions.values()):
                return
        time.sleep(0.1)


def fill(broker, topic, partitions, files):
    failures = []
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 200_000,
            "compression.type": "none",
        }
    )

    def delivered(error, _message):
        if error is not None:
            failures.append(error)

    def send(partition, line):
        while True:
            try:
                producer.produce(topic, line, partition=partition, on_delivery=delivered)
                return
            except BufferError:
                producer.poll(0.1)

    sent = 0
    opened = [open(file, "rb") for file in files]
    if len(opened) == 1:
        for number, line in enumerate(opened[0]):
            send(number // TURN % partitions, line.rstrip(b"\n"))
            sent += 1
            if sent % 10_000 == 0:
                producer.poll(0)
    else:
        # All partitions grow together, as those of a live topic do.
        growing = list(enumerate(opened))
        while growing:
            for partition, file in list(growing):
                for _ in range(TURN):
                    line = file.readline()
                    if not line:
                        growing.remove((partition, file))
                        break
                    send(partition, line.rstrip(b"\n"))
                    sent += 1
            producer.poll(0)
    while producer.flush(10):
        pass
    if failures:
        raise SystemExit(f"could not send {len(failures)} messages: {failures[0]}")
    print(sent)


def read(broker, topic, file):
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "bench-read",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    left, rows = set(partitions), 0
    with open(file, "wb") as out:
        while left:
            for message in consumer.consume(10_000, timeout=1):
                error = message.error()
                if error is None:
                    out.write(message.value() or b"null")
                    out.write(b"\n")
                    rows += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise SystemExit(str(error))
    consumer.close()
    print(rows)


def count(client, topic):
    known = client.list_topics(timeout=30).topics
    total = 0
    if topic in known:
        for spec, sign in ((OffsetSpec.latest(), 1), (OffsetSpec.earliest(), -1)):
            asked = {TopicPartition(topic, n): spec for n in known[topic].partitions}
            for future in client.list_offsets(asked).values():
                total += sign * future.result().offset
    print(total)


def main():
    task, broker, topic, *rest = sys.argv[1:]
    client = AdminClient({"bootstrap.servers": broker})
    if task == "create":
        create(client, topic, int(rest[0]))
    elif task == "fill":
        create(client, topic, int(rest[0]))
        fill(broker, topic, int(rest[0]), rest[1:])
    elif task == "read":
        read(broker, topic, rest[0])
    elif task == "count":
        count(client, topic)
    elif task == "delete":
        delete(client, topic)
    else:
        raise SystemExit(__doc__)


main()
