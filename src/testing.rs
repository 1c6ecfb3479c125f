//! Fakes of a router and a backend.
