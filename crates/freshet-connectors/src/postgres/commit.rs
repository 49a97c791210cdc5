//! The transaction that makes staged rows visible and records that it did.
//!
//! `_freshet_commits` holds the last commit's number for each writer and target. The row and the
//! data change together, so that a commit repeated after a crash finds its own number and stops.

use freshet_core::error::{Error, Result, code};
use freshet_core::sink::{LoadMode, LoadRequest, StagedLoad};
use tokio_postgres::{Client, GenericClient, Transaction};

use super::connect::failed;
use super::names::{Table, quote};
use super::{StagedColumn, Token};

const COMMITS: &str = "_freshet_commits";

/// The number of the last commit of `writer` that `target` holds.
pub(super) async fn committed(
    client: &Client,
    schema: &str,
    target: &Table,
    writer: &str,
) -> Result<u64> {
    let commits = Table { schema: schema.to_owned(), name: COMMITS.to_owned() };
    if kind(client, &commits).await?.is_none() || kind(client, target).await?.is_none() {
        return Ok(0);
    }
    number(client, &commits, target, writer).await
}

async fn number(
    client: &impl GenericClient,
    commits: &Table,
    target: &Table,
    writer: &str,
) -> Result<u64> {
    let query = format!("select number from {} where writer = $1 and target = $2", commits.sql());
    let row = client
        .query_opt(query.as_str(), &[&writer, &target.to_string()])
        .await
        .map_err(|error| failed(error, || format!("could not read table \"{commits}\"")))?;
    Ok(row.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)))
}

/// Makes a schema where it is missing; asks first, because a user may lack the right to make one.
pub(super) async fn make_schema(
    client: &impl GenericClient,
    schema: &str,
) -> Result<(), tokio_postgres::Error> {
    let there = client
        .query_opt("select 1 from pg_catalog.pg_namespace where nspname = $1", &[&schema])
        .await?;
    if there.is_none() {
        client.batch_execute(&format!("create schema if not exists {}", quote(schema))).await?;
    }
    Ok(())
}

/// Commits what was staged, unless the target holds this commit or a later one already.
pub(super) async fn commit(
    client: &mut Client,
    schema: &str,
    target: &Table,
    staged: &StagedLoad,
    token: &Token,
) -> Result<()> {
    let stage = &token.stage;
    let request = &staged.request;
    let refused =
        |error| failed(error, || format!("could not load table \"{target}\" of postgres"));
    let number = i64::try_from(request.id.number)
        .map_err(|_| Error::internal("a commit's number is beyond 63 bits"))?;
    let commits = Table { schema: schema.to_owned(), name: COMMITS.to_owned() };

    let transaction = client.transaction().await.map_err(refused)?;
    // One load at a time for each target, also where the table does not exist yet; and one maker of
    // the table of commits, because `if not exists` does not wait for another's.
    for key in [format!("freshet commits {schema}"), format!("freshet load {target}")] {
        transaction
            .execute(
                "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))",
                &[&key],
            )
            .await
            .map_err(refused)?;
    }
    make_schema(&transaction, &target.schema).await.map_err(refused)?;
    transaction
        .batch_execute(&format!(
            "create table if not exists {} (
                writer text not null,
                target text not null,
                number bigint not null,
                rows bigint not null,
                committed_at timestamptz not null,
                primary key (writer, target)
            )",
            commits.sql()
        ))
        .await
        .map_err(refused)?;

    let exists = match kind(&transaction, target).await? {
        None => false,
        Some('r' | 'p') => true,
        Some(_) => {
            return Err(Error::new(code::LOAD, format!("\"{target}\" of postgres is not a table"))
                .hint("a view or foreign table has this name: load into another"));
        }
    };
    if exists
        && self::number(&transaction, &commits, target, &request.id.writer).await?
            >= request.id.number
    {
        // An earlier attempt went through; only its staging table may be left.
        transaction
            .batch_execute(&format!("drop table if exists {}", stage.sql()))
            .await
            .map_err(refused)?;
        return transaction.commit().await.map_err(refused);
    }
    verify_stage(&transaction, target, staged, stage).await?;
    prepare_target(&transaction, target, exists, &token.columns).await?;
    transaction
        .batch_execute(&format!("lock table {} in share row exclusive mode", target.sql()))
        .await
        .map_err(refused)?;
    apply(&transaction, target, request, token).await?;
    transaction
        .execute(
            format!(
                "insert into {} (writer, target, number, rows, committed_at)
                 values ($1, $2, $3, $4, pg_catalog.now())
                 on conflict (writer, target) do update set
                    number = excluded.number, rows = excluded.rows,
                    committed_at = excluded.committed_at",
                commits.sql()
            )
            .as_str(),
            &[&request.id.writer, &target.to_string(), &number, &(staged.rows as i64)],
        )
        .await
        .map_err(refused)?;
    transaction.batch_execute(&format!("drop table {}", stage.sql())).await.map_err(refused)?;
    transaction.commit().await.map_err(refused)
}

/// What a name is in the catalogue: `r` for a table, `p` for a partitioned one, `v` for a view …
pub(super) async fn kind(client: &impl GenericClient, table: &Table) -> Result<Option<char>> {
    let row = client
        .query_opt(
            "select c.relkind from pg_catalog.pg_class c
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where n.nspname = $1 and c.relname = $2",
            &[&table.schema, &table.name],
        )
        .await
        .map_err(|error| failed(error, || format!("could not look up table \"{table}\"")))?;
    Ok(row.map(|row| char::from(row.get::<_, i8>(0).unsigned_abs())))
}

/// Refuses a staging table that is gone, or that a crash of the server has emptied.
async fn verify_stage(
    transaction: &Transaction<'_>,
    target: &Table,
    staged: &StagedLoad,
    stage: &Table,
) -> Result<()> {
    let lost = |found: &str| {
        Error::new(
            code::LOAD,
            format!("{} rows were staged for table \"{target}\" of postgres, but {found}", staged.rows),
        )
        .hint("the server was restarted, or the staging table was removed: run again, the rows are staged anew")
        .retryable()
    };
    if kind(transaction, stage).await?.is_none() {
        return Err(lost("the staging table is gone"));
    }
    let count: i64 = transaction
        .query_one(format!("select count(*) from {}", stage.sql()).as_str(), &[])
        .await
        .map_err(|error| failed(error, || format!("could not count table \"{stage}\"")))?
        .get(0);
    if u64::try_from(count) == Ok(staged.rows) {
        Ok(())
    } else {
        Err(lost(&format!("{count} are there")))
    }
}

/// Makes the target, or adds the columns that it lacks and compares the types of the others.
pub(super) async fn prepare_target(
    transaction: &Transaction<'_>,
    target: &Table,
    exists: bool,
    columns: &[StagedColumn],
) -> Result<()> {
    let definition = |column: &StagedColumn| format!("{} {}", quote(&column.name), column.sql_type);
    let refused =
        |error| failed(error, || format!("could not make or alter table \"{target}\" of postgres"));
    if !exists {
        let definitions: Vec<String> = columns.iter().map(definition).collect();
        return transaction
            .batch_execute(&format!("create table {} ({})", target.sql(), definitions.join(", ")))
            .await
            .map_err(refused);
    }
    let rows = transaction
        .query(
            "select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
             from pg_catalog.pg_attribute a
             join pg_catalog.pg_class c on c.oid = a.attrelid
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped",
            &[&target.schema, &target.name],
        )
        .await
        .map_err(refused)?;
    let there: std::collections::BTreeMap<String, String> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut errors = Vec::new();
    let mut additions = Vec::new();
    for column in columns {
        match there.get(&column.name) {
            None => additions.push(format!("add column {}", definition(column))),
            Some(target_type) if holds(target_type, &column.sql_type) => {}
            Some(target_type) => errors.push(
                Error::new(
                    code::LOAD,
                    format!(
                        "column \"{}\" of table \"{target}\" of postgres is {target_type}, but the model gives {}",
                        column.name, column.sql_type
                    ),
                )
                .hint(format!(
                    "cast it in the model, or `alter table {} alter column {} type {}`",
                    target.sql(),
                    quote(&column.name),
                    column.sql_type
                )),
            ),
        }
    }
    if let Some(error) = Error::join(errors) {
        return Err(error);
    }
    if additions.is_empty() {
        return Ok(());
    }
    transaction
        .batch_execute(&format!("alter table {} {}", target.sql(), additions.join(", ")))
        .await
        .map_err(refused)
}

/// Whether a column of type `target` takes every value of type `source` unchanged, or refuses it.
fn holds(target: &str, source: &str) -> bool {
    let base = |name: &str| name.split('(').next().unwrap_or(name).trim().to_owned();
    let width = |name: &str| match name {
        "smallint" => Some((2, 5)),
        "integer" => Some((4, 10)),
        "bigint" => Some((8, 19)),
        _ => None,
    };
    if target == source {
        return true;
    }
    if let (Some((wide, _)), Some((narrow, _))) = (width(target), width(source)) {
        return wide >= narrow;
    }
    if base(target) == "numeric" {
        let digits = |name: &str| -> Option<(i32, i32)> {
            let (precision, scale) = name.split_once('(')?.1.strip_suffix(')')?.split_once(',')?;
            let (precision, scale) =
                (precision.trim().parse::<i32>().ok()?, scale.trim().parse::<i32>().ok()?);
            Some((precision - scale, scale))
        };
        let needs = width(source).map(|(_, digits)| (digits, 0)).or_else(|| digits(source));
        return match (needs, digits(target)) {
            (Some(_), None) => target == "numeric",
            (Some((whole, scale)), Some(room)) => room.0 >= whole && room.1 >= scale,
            (None, _) => false,
        };
    }
    match source {
        "real" => target == "double precision",
        // One that is too long is refused by the server, never cut.
        "text" => matches!(base(target).as_str(), "character varying" | "citext"),
        "date" => target == "timestamp without time zone",
        _ => false,
    }
}

async fn apply(
    transaction: &Transaction<'_>,
    target: &Table,
    request: &LoadRequest,
    token: &Token,
) -> Result<()> {
    let run = async |statement: String| {
        transaction.execute(statement.as_str(), &[]).await.map_err(|error| {
            failed(error, || format!("could not load table \"{target}\" of postgres"))
        })
    };
    let stage = token.stage.sql();
    let names: Vec<String> = token.columns.iter().map(|column| quote(&column.name)).collect();
    let list = names.join(", ");
    let insert = format!("insert into {} ({list}) select {list} from {stage} s", target.sql());
    match request.mode {
        LoadMode::Append => {}
        LoadMode::Replace => {
            // Not `truncate`: that would show readers an empty table, or make them wait.
            run(format!("delete from {}", target.sql())).await?;
        }
        LoadMode::ReplaceInterval => {
            let condition = interval_condition(target, request, &token.columns)?;
            let outside = transaction
                .query_opt(
                    format!("select 1 from {stage} where ({condition}) is not true limit 1")
                        .as_str(),
                    &[],
                )
                .await
                .map_err(|error| failed(error, || format!("could not read table \"{stage}\"")))?;
            if outside.is_some() {
                return Err(Error::new(
                    code::LOAD,
                    format!("rows for table \"{target}\" lie outside the interval that they are to replace"),
                )
                .hint("`event_time` must be a column of the result that says which batch a row belongs to"));
            }
            run(format!("delete from {} where {condition}", target.sql())).await?;
        }
        LoadMode::Merge => return merge(transaction, target, request, token).await,
    }
    run(insert).await?;
    Ok(())
}

fn interval_condition(
    target: &Table,
    request: &LoadRequest,
    columns: &[StagedColumn],
) -> Result<String> {
    let Some((column, intervals)) = &request.intervals else {
        return Err(Error::internal(format!("a load of table \"{target}\" names no interval")));
    };
    if !columns.iter().any(|staged| staged.name == *column) {
        return Err(Error::new(
            code::LOAD,
            format!("the rows for table \"{target}\" have no column \"{column}\""),
        )
        .hint("`event_time` must be a column of the model's result"));
    }
    // Neighbours become one span, so that a month of days is one comparison.
    let mut spans: Vec<(chrono::NaiveDateTime, chrono::NaiveDateTime)> = Vec::new();
    let mut sorted = intervals.clone();
    sorted.sort();
    for interval in sorted {
        match spans.last_mut() {
            Some((_, end)) if interval.start <= *end => *end = (*end).max(interval.end),
            _ => spans.push((interval.start, interval.end)),
        }
    }
    let column = quote(column);
    let terms: Vec<String> = spans
        .iter()
        .map(|(start, end)| {
            format!("({column} >= timestamp '{start}' and {column} < timestamp '{end}')")
        })
        .collect();
    Ok(if terms.is_empty() { "false".to_owned() } else { terms.join(" or ") })
}

async fn merge(
    transaction: &Transaction<'_>,
    target: &Table,
    request: &LoadRequest,
    token: &Token,
) -> Result<()> {
    let refused =
        |error| failed(error, || format!("could not merge into table \"{target}\" of postgres"));
    let stage = token.stage.sql();
    for key in &request.unique_key {
        if !token.columns.iter().any(|column| column.name == *key) {
            return Err(Error::new(
                code::LOAD,
                format!("the rows for table \"{target}\" have no key column \"{key}\""),
            )
            .hint("`unique_key` must name columns of the model's result"));
        }
    }
    let keys: Vec<String> = request.unique_key.iter().map(|key| quote(key)).collect();
    if keys.is_empty() {
        return Err(Error::new(
            code::LOAD,
            format!("a merge into table \"{target}\" needs a `unique_key`"),
        )
        .hint("give the model a `unique_key`, or load with another mode"));
    }
    let list = keys.join(", ");
    let doubled = transaction
        .query_opt(
            format!("select 1 from {stage} group by {list} having count(*) > 1 limit 1").as_str(),
            &[],
        )
        .await
        .map_err(refused)?;
    if doubled.is_some() {
        return Err(Error::new(
            code::MERGE,
            format!("the rows for table \"{target}\" hold a key ({list}) more than once"),
        )
        .hint("deduplicate in the model"));
    }

    let any_null: Vec<String> = keys.iter().map(|key| format!("s.{key} is null")).collect();
    let any_null = any_null.join(" or ");
    let on = |operator: &str| -> String {
        let terms: Vec<String> =
            keys.iter().map(|key| format!("t.{key} {operator} s.{key}")).collect();
        terms.join(" and ")
    };
    let nulls = transaction
        .query_opt(format!("select 1 from {stage} s where {any_null} limit 1").as_str(), &[])
        .await
        .map_err(refused)?
        .is_some();
    // Equality can use hashes and indexes; keys with nulls, which are equal to each other here as
    // they are in the lake, are compared apart from the rest.
    let mut conditions = vec![on("=")];
    if nulls {
        conditions.push(format!("{} and ({any_null})", on("is not distinct from")));
    }

    let others: Vec<String> = token
        .columns
        .iter()
        .filter(|column| !request.unique_key.contains(&column.name))
        .map(|column| quote(&column.name))
        .collect();
    let columns: Vec<String> = token.columns.iter().map(|column| quote(&column.name)).collect();
    if !others.is_empty() {
        let set: Vec<String> = others.iter().map(|name| format!("{name} = s.{name}")).collect();
        let changed: Vec<String> =
            others.iter().map(|name| format!("t.{name} is distinct from s.{name}")).collect();
        for condition in &conditions {
            transaction
                .execute(
                    format!(
                        "update {} t set {} from {stage} s where {condition} and ({})",
                        target.sql(),
                        set.join(", "),
                        changed.join(" or ")
                    )
                    .as_str(),
                    &[],
                )
                .await
                .map_err(refused)?;
        }
    }
    let absent: Vec<String> = conditions
        .iter()
        .map(|condition| format!("not exists (select 1 from {} t where {condition})", target.sql()))
        .collect();
    let list = columns.join(", ");
    let values: Vec<String> = columns.iter().map(|name| format!("s.{name}")).collect();
    transaction
        .execute(
            format!(
                "insert into {} ({list}) select {} from {stage} s where {}",
                target.sql(),
                values.join(", "),
                absent.join(" and ")
            )
            .as_str(),
            &[],
        )
        .await
        .map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn a_column_holds_what_it_keeps_unchanged() {
        for (target, source) in [
            ("bigint", "integer"),
            ("numeric", "numeric(38,9)"),
            ("numeric(14,2)", "numeric(12,2)"),
            ("numeric(19,0)", "bigint"),
            ("character varying(10)", "text"),
            ("double precision", "real"),
        ] {
            assert!(holds(target, source), "{target} holds {source}");
        }
        for (target, source) in [
            ("integer", "bigint"),
            ("numeric(12,2)", "numeric(12,3)"),
            ("numeric(10,2)", "bigint"),
            ("text", "integer"),
            ("real", "double precision"),
            ("date", "timestamp without time zone"),
            ("numeric", "double precision"),
        ] {
            assert!(!holds(target, source), "{target} does not hold {source}");
        }
    }
}
