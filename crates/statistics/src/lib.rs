//! Statistics of transfer.
