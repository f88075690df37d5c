//! Models and data from the Hugging Face Hub.
