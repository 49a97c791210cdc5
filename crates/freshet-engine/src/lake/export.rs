//! Rows into files for others: Parquet, CSV or NDJSON, in folders by partition.

use std::collections::HashSet;
use std::sync::Arc;

use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;

use super::writer::{Batches, Target};
use super::{DataFile, ExportTarget, LakeOptions, NewRows, TableName, schema};
use crate::session::query_error;

/// Writes rows to files. Each file becomes visible whole; when all are, files of an earlier export
/// of the same name are deleted. Without rows there are no files.
pub async fn export(rows: NewRows, target: &ExportTarget) -> Result<Vec<DataFile>> {
    let folder = Path::parse(&target.prefix)
        .or_code(code::CONFIG, || format!("\"{}\" is no folder for an export", target.prefix))?;
    let job = Arc::new(Target {
        store: Arc::clone(&target.store),
        table: TableName::new("export", &target.name),
        folder: folder.clone(),
        schema: schema::stored(&rows.schema)?,
        partition_by: target.partition_by.clone(),
        options: Arc::new(LakeOptions::default()),
        format: target.format,
        compression: target.compression,
        name: Some(target.name.clone()),
        written: Mutex::default(),
    });
    let streams = rows.streams.into_iter().map(|stream| -> Batches {
        let job = Arc::clone(&job);
        stream
            .map(move |batch| {
                let batch = batch.map_err(|error| {
                    query_error(error, || {
                        format!("could not compute the rows of export \"{}\"", job.table.name)
                    })
                })?;
                schema::fit(&batch, &job.schema)
            })
            .boxed()
    });
    let files = job.write(streams.collect()).await?;
    let error = |error: object_store::Error| {
        Error::new(code::IO, format!("could not clean up export \"{}\"", target.name))
            .caused_by(error)
    };
    let written: HashSet<_> = files.iter().map(|file| format!("{folder}/{}", file.path)).collect();
    let ours = format!("{}-", target.name);
    let listed: Vec<_> = target.store.list(Some(&folder)).try_collect().await.map_err(error)?;
    for object in listed {
        let name = object.location.filename().unwrap_or_default();
        let numbers = name.strip_prefix(&ours).and_then(|rest| rest.split_once('.'));
        let is_ours = numbers.is_some_and(|(numbers, _)| {
            numbers.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        });
        let path = object.location.as_ref().trim_start_matches('/').to_owned();
        if is_ours && !written.contains(&path) && !written.contains(&format!("/{path}")) {
            target.store.delete(&object.location).await.map_err(error)?;
        }
    }
    Ok(files)
}
