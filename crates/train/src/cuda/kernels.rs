//! The kernels' sources, which stand in the binary, and what each kernel may cost. `kernels/` holds
//! CUDA C++; one file is one module of the driver.

use anyhow::{Result, bail};

/// One source file.
#[derive(Debug)]
pub struct KernelFile {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
    /// Whether it needs Hopper's instructions.
    pub hopper: bool,
    /// The kernels in it, each with the most registers a thread may use.
    pub kernels: &'static [(&'static str, u32)],
}

impl KernelFile {
    /// Hopper's kernels share out anew what they begin with: the budget, all of it. With less, those that
    /// take would wait for ever for what nobody can give.
    ///
    /// # Errors
    /// If the compiler gave a kernel less.
    pub fn check_registers(&self, kernel: &str, registers: i32) -> Result<()> {
        let budget = self.kernels.iter().find(|(name, _)| *name == kernel).map_or(0, |k| k.1);
        if self.hopper && registers < budget as i32 {
            bail!(
                "{kernel} was compiled to {registers} registers a thread and needs {budget}; ISOGLOSS_NVRTC names another compiler"
            );
        }
        Ok(())
    }
}

macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("../../kernels/", $name))
    };
}

/// Headers by the names under which the files include them.
pub const HEADERS: &[(&str, &str)] = &[
    ("activation.cuh", source!("activation.cuh")),
    ("attention.cuh", source!("attention.cuh")),
    ("attention_hopper.cuh", source!("attention_hopper.cuh")),
    ("block.cuh", source!("block.cuh")),
    ("device.cuh", source!("device.cuh")),
    ("gemm.cuh", source!("gemm.cuh")),
    ("hopper.cuh", source!("hopper.cuh")),
    ("philox.cuh", source!("philox.cuh")),
    ("tensors.cuh", source!("tensors.cuh")),
    ("tiles.cuh", source!("tiles.cuh")),
];

/// Every file. Register budgets: 65,536 over the threads that a multiprocessor is to hold; the
/// Hopper kernels share theirs out anew by `setmaxnreg`.
pub const FILES: &[KernelFile] = &[
    KernelFile {
        name: "adamw.cu",
        source: source!("adamw.cu"),
        hopper: false,
        kernels: &[("adamw", 128)],
    },
    KernelFile {
        name: "attention_backward_sm90.cu",
        source: source!("attention_backward_sm90.cu"),
        hopper: true,
        kernels: &[
            ("attention_backward_kv_64", 168),
            ("attention_backward_kv_128", 168),
            ("attention_backward_kv_256", 168),
            ("attention_backward_q_64", 168),
            ("attention_backward_q_128", 168),
            ("attention_backward_q_256", 168),
            ("attention_backward_kv_capped_64", 168),
            ("attention_backward_kv_capped_128", 168),
            ("attention_backward_kv_capped_256", 168),
            ("attention_backward_q_capped_64", 168),
            ("attention_backward_q_capped_128", 168),
            ("attention_backward_q_capped_256", 168),
        ],
    },
    KernelFile {
        name: "attention_delta.cu",
        source: source!("attention_delta.cu"),
        hopper: false,
        kernels: &[("attention_delta", 64)],
    },
    KernelFile {
        name: "attention_sm80.cu",
        source: source!("attention_sm80.cu"),
        hopper: false,
        kernels: &[
            ("attention_warp_forward_64", 168),
            ("attention_warp_forward_128", 255),
            ("attention_warp_forward_256", 255),
            ("attention_warp_backward_q_64", 255),
            ("attention_warp_backward_q_128", 255),
            ("attention_warp_backward_q_256", 255),
            ("attention_warp_backward_kv_64", 255),
            ("attention_warp_backward_kv_128", 255),
            ("attention_warp_backward_kv_256", 255),
        ],
    },
    KernelFile {
        name: "attention_sm90.cu",
        source: source!("attention_sm90.cu"),
        hopper: true,
        kernels: &[
            ("attention_forward_64", 168),
            ("attention_forward_128", 168),
            ("attention_forward_256", 168),
        ],
    },
    KernelFile {
        name: "cross_entropy.cu",
        source: source!("cross_entropy.cu"),
        hopper: false,
        kernels: &[("cross_entropy", 64)],
    },
    KernelFile {
        name: "decode.cu",
        source: source!("decode.cu"),
        hopper: false,
        kernels: &[("cache_store", 64), ("decode_piece", 128), ("decode_combine", 64)],
    },
    KernelFile {
        name: "dora.cu",
        source: source!("dora.cu"),
        hopper: false,
        kernels: &[
            ("row_norms", 64),
            ("scale_columns_1", 64),
            ("scale_columns_8", 64),
            ("column_products", 64),
        ],
    },
    KernelFile {
        name: "dropout.cu",
        source: source!("dropout.cu"),
        hopper: false,
        kernels: &[("dropout", 64)],
    },
    KernelFile {
        name: "embedding.cu",
        source: source!("embedding.cu"),
        hopper: false,
        kernels: &[("gather_rows", 64), ("scatter_add_f32", 64), ("scatter_add_bf16", 64)],
    },
    KernelFile {
        name: "gemm_plain.cu",
        source: source!("gemm_plain.cu"),
        hopper: false,
        kernels: &[("gemm_any", 64), ("gemm_reduce", 64)],
    },
    KernelFile {
        name: "gemm_sm80.cu",
        source: source!("gemm_sm80.cu"),
        hopper: false,
        kernels: &[
            ("gemm_ring_nt_128x128", 255),
            ("gemm_ring_nn_128x128", 255),
            ("gemm_ring_tn_128x128", 255),
            ("gemm_ring_nt_64x64", 128),
            ("gemm_ring_nn_64x64", 128),
            ("gemm_ring_tn_64x64", 128),
            ("gemm_ring_gated_128x128", 255),
        ],
    },
    KernelFile {
        name: "gemm_sm90.cu",
        source: source!("gemm_sm90.cu"),
        hopper: true,
        kernels: &[
            ("gemm_nt_128x256", 168),
            ("gemm_nn_128x256", 168),
            ("gemm_tn_128x256", 168),
            ("gemm_nt_128x128", 168),
            ("gemm_nn_128x128", 168),
            ("gemm_tn_128x128", 168),
            ("gemm_nt_128x64", 168),
            ("gemm_nn_128x64", 168),
            ("gemm_tn_128x64", 168),
            ("gemm_gated_128x256", 168),
        ],
    },
    KernelFile {
        name: "glu.cu",
        source: source!("glu.cu"),
        hopper: false,
        kernels: &[("glu_forward", 64), ("glu_backward", 64)],
    },
    KernelFile {
        name: "nf4.cu",
        source: source!("nf4.cu"),
        hopper: false,
        kernels: &[("unpack_nf4", 64)],
    },
    KernelFile {
        name: "norm.cu",
        source: source!("norm.cu"),
        hopper: false,
        kernels: &[
            ("norm_forward", 64),
            ("norm_backward_1", 128),
            ("norm_backward_2", 128),
            ("norm_backward_4", 128),
            ("norm_backward_8", 128),
            ("head_norm_forward", 64),
            ("head_norm_backward", 64),
        ],
    },
    KernelFile {
        name: "reduce.cu",
        source: source!("reduce.cu"),
        hopper: false,
        kernels: &[
            ("reduce_columns", 64),
            ("reduce_heads", 64),
            ("column_sums", 64),
            ("square_sums", 64),
            ("sum_parts", 64),
            ("fill_f32", 64),
            ("fill_bf16", 64),
            ("fill_block_f32", 64),
            ("add_f32", 64),
            ("scale_f32", 64),
            ("scale_bf16", 64),
            ("widen", 64),
            ("narrow", 64),
        ],
    },
    KernelFile {
        name: "rope.cu",
        source: source!("rope.cu"),
        hopper: false,
        kernels: &[("rope_halves", 64), ("rope_interleaved", 64)],
    },
    KernelFile {
        name: "sample.cu",
        source: source!("sample.cu"),
        hopper: false,
        kernels: &[("sample", 64)],
    },
];

/// The file that holds a kernel.
///
/// # Errors
/// If none does.
pub fn file_of(kernel: &str) -> Result<&'static KernelFile> {
    match FILES.iter().find(|file| file.kernels.iter().any(|(name, _)| *name == kernel)) {
        Some(file) => Ok(file),
        None => bail!("no kernel is called {kernel}"),
    }
}

/// What a card of this compute capability is compiled for: its own instructions on Hopper, the
/// nearest elder relative before, its own plain ones after.
///
/// # Errors
/// If the card is older than Ampere and cannot multiply bf16.
pub fn architecture(capability: (u32, u32)) -> Result<String> {
    Ok(match capability {
        (8, 9) => "sm_89".to_owned(),
        (8, _) => "sm_80".to_owned(),
        (9, _) => "sm_90a".to_owned(),
        (major, minor) if major > 9 => format!("sm_{major}{minor}"),
        (major, minor) => artifact::bail_user!(
            "the card has compute capability {major}.{minor}; bf16 products need 8.0 or later (A100, RTX 30, …); use --device cpu"
        ),
    })
}
