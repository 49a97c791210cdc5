//! What every format and every place must do alike: each kind of damage, wherever it stands and
//! however the bytes come, costs exactly the records that it is in.
#![allow(clippy::unwrap_used)]

mod corrections;
mod damage;
mod inference;
mod listing;
mod parquet;
mod places;
mod stream_corrections;
mod support;
