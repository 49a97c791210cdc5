//! One file for each connector and each format, and the registry of them.

pub mod avro;
pub mod blackhole;
pub mod csv;
pub mod files;
pub mod formats;
pub mod infer;
pub mod json;
pub mod kafka;
pub mod log;
pub mod messages;
pub mod options;
pub mod parquet;
pub mod postgres;
pub mod print;
pub mod sending;
pub mod tail;
pub mod values;
pub mod webhook;

use std::sync::Arc;

use freshet_core::registry::{Connector, Registry};

use avro::Avro;
use formats::{Csv, Format, FormatConnector};
use json::{Json, Shape};
use messages::raw::Raw;
use parquet::Parquet;

/// All formats, in the order of their listing. A new one is one line here.
fn formats() -> Vec<Arc<dyn Format>> {
    vec![
        Arc::new(Csv),
        Arc::new(Json(Shape::Lines)),
        Arc::new(Json(Shape::Elements)),
        Arc::new(Parquet),
        Arc::new(Avro),
        Arc::new(Raw),
    ]
}

/// All connectors of this build. A new one is one line here.
pub fn registry() -> Registry {
    let mut connectors: Vec<Arc<dyn Connector>> = vec![
        Arc::new(files::FilesConnector::new(formats())),
        Arc::new(kafka::KafkaConnector::new(formats())),
        Arc::new(log::LogConnector::new(formats())),
        Arc::new(tail::TailConnector::new(formats())),
        Arc::new(postgres::PostgresConnector),
        Arc::new(print::PrintConnector),
        Arc::new(webhook::WebhookConnector),
        Arc::new(blackhole::BlackholeConnector),
    ];
    connectors.extend(
        formats().into_iter().map(|format| Arc::new(FormatConnector(format)) as Arc<dyn Connector>),
    );
    Registry::new(connectors)
}
