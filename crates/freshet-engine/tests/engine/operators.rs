//! What operators say of their rows, against counts that are known.

use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use freshet_core::OperatorCounts;
use freshet_engine::operators::operator_counts;

async fn counts(sql: &str) -> Vec<OperatorCounts> {
    let mut config = SessionConfig::new().with_target_partitions(3).with_batch_size(16);
    config.options_mut().optimizer.hash_join_single_partition_threshold = 0;
    let ctx = SessionContext::new_with_config(config);
    for statement in [
        "create view sales as select value as id, value % 10 as store, value % 7 as day
         from generate_series(1, 1000)",
        "create view stores as select value as store from generate_series(0, 6)",
    ] {
        ctx.sql(statement).await.expect(statement).collect().await.expect(statement);
    }
    let plan = ctx.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
    collect(std::sync::Arc::clone(&plan), ctx.task_ctx()).await.expect(sql);
    operator_counts(&plan)
}

/// Sums of filtered, unmatched and deduplicated over a plan, and the rows of its last operator.
async fn summed(sql: &str) -> (u64, u64, u64, u64) {
    let counts = counts(sql).await;
    let last = counts.last().expect("a plan has operators");
    let sum = |of: fn(&OperatorCounts) -> u64| counts.iter().map(of).sum::<u64>();
    let unmatched = |c: &OperatorCounts| c.unmatched.expect("it is known");
    (sum(|c| c.filtered), sum(unmatched), sum(|c| c.deduplicated), last.rows_out)
}

#[tokio::test]
async fn sums_are_those_that_the_data_has() {
    let first = "(select *, row_number() over (partition by store order by id) as n from sales)";
    let cases = [
        ("select * from sales where id > 400".to_owned(), (400, 0, 0, 600)),
        ("select distinct store, day from sales".to_owned(), (0, 0, 930, 70)),
        (format!("select id, store from {first} where n = 1"), (0, 0, 990, 10)),
        (format!("select id, store from {first} where n > 1"), (10, 0, 0, 990)),
        (
            "select s.id, t.store from sales s left join stores t on s.store = t.store".to_owned(),
            (0, 300, 0, 1000),
        ),
        (
            "select s.id, t.store from stores t right join sales s on s.store = t.store".to_owned(),
            (0, 300, 0, 1000),
        ),
        (
            "select s.id from sales s full join (select store + 5 as store from stores) t on s.store = t.store".to_owned(),
            (0, 502, 0, 1002),
        ),
        (
            "select id from sales s where not exists (select 1 from stores t where s.store = t.store)".to_owned(),
            (0, 300, 0, 300),
        ),
        (
            "select id from sales s where exists (select 1 from stores t where s.store = t.store)".to_owned(),
            (0, 300, 0, 700),
        ),
        ("select s.id from sales s join stores t on s.store = t.store".to_owned(), (0, 0, 0, 700)),
        ("select store, count(*) from sales group by store".to_owned(), (0, 0, 0, 10)),
    ];
    for (sql, expected) in cases {
        assert_eq!(summed(&sql).await, expected, "{sql}\n{:#?}", counts(&sql).await);
    }
}

/// What each join says of its unmatched rows, in the order of the rows.
async fn joins(sql: &str) -> Vec<Option<u64>> {
    let counts = counts(sql).await;
    let joins = counts.iter().filter(|count| count.operator.contains("Join"));
    joins.map(|count| count.unmatched).collect()
}

#[tokio::test]
async fn what_a_join_does_not_count_is_unknown_and_not_nothing() {
    let cases = [
        ("left join stores t on s.store = t.store", Some(300)),
        ("full join stores t on s.store = t.store", Some(300)),
        // Pairs are counted before a further condition is asked.
        ("left join stores t on s.store = t.store and s.day > t.store", None),
        ("full join stores t on s.store = t.store and s.day > t.store", None),
        ("left join stores t on s.store > t.store + 3", None),
        ("left semi join stores t on s.store = t.store and s.day > t.store", Some(701)),
        ("left anti join stores t on s.store = t.store and s.day > t.store", Some(701)),
        ("left anti join stores t on s.store > t.store + 3", Some(400)),
        ("join stores t on s.store = t.store and s.day > t.store", Some(0)),
    ];
    for (join, expected) in cases {
        let sql = format!("select s.id from sales s {join}");
        assert_eq!(joins(&sql).await, [expected], "{sql}\n{:#?}", counts(&sql).await);
    }
    // A limit stops the join before its end, unless all is sorted first.
    let left = "select s.id, t.store from sales s left join stores t on s.store = t.store";
    assert_eq!(joins(&format!("{left} limit 20")).await, [None]);
    assert_eq!(joins(&format!("{left} order by s.day, s.id limit 20")).await, [Some(300)]);
    // Whether any matches is asked of each row, and told as a column.
    let mark = "select id from sales s where id = 3 or exists (select 1 from stores t where s.store = t.store)";
    assert_eq!(joins(mark).await, [None]);
}

#[tokio::test]
async fn operators_are_named_in_the_order_of_the_rows() {
    let counts = counts("select id from sales where store = 3 limit 2000").await;
    let names: Vec<_> = counts.iter().map(|count| count.operator.as_str()).collect();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    assert!(names[0].ends_with("#0"), "{names:?}");
    assert_eq!((counts[0].rows_in, counts[0].rows_out), (1000, 1000));
}
