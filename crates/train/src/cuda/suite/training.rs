//! The head with its loss, the optimiser, and the choice of tokens.

use anyhow::Result;

use super::{Lab, ROUNDED};
use crate::ops::cross_entropy::IGNORED;
use crate::ops::moments::SMALL;
use crate::ops::sample::Choice;
use crate::ops::{
    AdamWStep, Backend, Cpu, Draw, Form, HeadGradient, HeadShape, Kind, LinearShape, LogitRule,
    Moments, SampleShape, Update,
};

/// Loss, and the gradients of what goes in and of the head.
pub(super) fn head_and_loss(lab: &mut Lab<'_>) -> Result<()> {
    let capped = LogitRule { scale: 0.5, softcap: Some(4.0) };
    let small = vec![
        (140, 40, 136, LogitRule::PLAIN),
        (33, 40, 136, capped),
        (7, 40, 101, LogitRule::PLAIN),
        (3, 40, 2601, LogitRule::PLAIN),
        (3, 40, 4160, LogitRule { scale: 2.0, softcap: None }),
    ];
    // The first takes more than one chunk of rows.
    let full = vec![
        (1100, 264, 131_080, LogitRule::PLAIN),
        (515, 896, 32_008, capped),
        (301, 264, 32_003, LogitRule::PLAIN),
    ];
    for (rows, c, vocabulary, logits) in lab.pick(small, full) {
        let linear = LinearShape::new(rows, c, vocabulary);
        let shape = HeadShape { linear, logits };
        let (hidden, mut head) = (lab.values(rows * c), lab.values(vocabulary * c));
        // Scores of a spread that a softmax meets.
        let spread = 2f32.powi(-((c as f32).log2() / 2.0).round() as i32);
        head.iter_mut().for_each(|x| *x *= spread);
        let sums = lab.values(vocabulary * c);
        // Every fifth row only fills up.
        let target = |i: usize| if i % 5 == 2 { IGNORED } else { (i * 7919 % vocabulary) as u32 };
        let targets: Vec<u32> = (0..rows).map(target).collect();
        let (mut losses, mut dhidden, mut dhead) =
            (vec![0.0; rows], vec![0.0; hidden.len()], sums.clone());
        let into =
            HeadGradient { scale: &vec![0.25], hidden: &mut dhidden, head: Some(&mut dhead) };
        Cpu.cross_entropy(&mut losses, &hidden, &head, &targets, Some(into), shape);

        let (thidden, thead) =
            (lab.tensor(Kind::Activation, &hidden), lab.tensor(Kind::Weight, &head));
        let mut tlosses = lab.poisoned(Kind::Statistic, rows);
        let scale = lab.tensor(Kind::Statistic, &[0.25]);
        let mut tdhidden = lab.poisoned(Kind::Activation, rows * c);
        let mut tdhead = lab.tensor(Kind::Gradient, &sums);
        let into = HeadGradient { scale: &scale, hidden: &mut tdhidden, head: Some(&mut tdhead) };
        let (ops, index) = (lab.ops.clone(), lab.ops.index(&targets));
        ops.cross_entropy(&mut tlosses, &thidden, &thead, &index, Some(into), shape);
        let what = format!("{rows} rows, C {c}, V {vocabulary}");
        lab.near(format!("{what}: losses"), &tlosses, &losses, 1e-5);
        lab.near(format!("{what}: d hidden"), &tdhidden, &dhidden, ROUNDED);
        lab.near(format!("{what}: d head"), &tdhead, &dhead, 1e-3);
    }
    Ok(())
}

/// Steps of AdamW over several tensors, in every form of moments, with and without masters, on the
/// card and streamed through it: the processor's bits.
pub(super) fn optimiser(lab: &mut Lab<'_>) -> Result<()> {
    let lengths = lab.pick(vec![77, SMALL, 9_000], vec![77, SMALL, 1_000_003, 5_000_011]);
    for form in [Form::F32, Form::Bf16, Form::Int8] {
        for narrow in [false, true] {
            let (seed, how) = (lab.seed, (form, narrow));
            let expected = steps(&Cpu, lab, &lengths, how, false)?;
            for offload in [false, true] {
                lab.seed = seed;
                let found = steps(&lab.ops.clone(), lab, &lengths, how, offload)?;
                let what = format!("{form:?}, masters: {}, streamed: {offload}", !narrow);
                for ((len, (f, m)), (e, n)) in lengths.iter().zip(&found).zip(&expected) {
                    lab.same(format!("{what}, {len} weights"), f, e);
                    let fault = (m != n).then(|| "other bits".to_owned());
                    lab.tell(format!("{what}, {len} moments"), 0.0, 0.0, fault);
                }
            }
        }
    }
    Ok(())
}

/// Weights and moments of tensors of these lengths after three steps.
fn steps<B: Backend>(
    ops: &B,
    lab: &mut Lab<'_>,
    lengths: &[usize],
    (form, narrow): (Form, bool),
    offload: bool,
) -> Result<Vec<(Vec<f32>, Moments)>> {
    let kind = if narrow { Kind::Narrow } else { Kind::Weight };
    // The optimiser takes all of a tensor, so that these have no guard.
    let mut weights: Vec<_> =
        lengths.iter().map(|&len| ops.tensor(kind, lab.values(len))).collect();
    let mut moments: Vec<_> =
        lengths.iter().map(|&len| ops.moments(form.of(len), len, offload)).collect();
    for step in 1..=3 {
        let settings = AdamWStep {
            step,
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_factor: 0.7,
            narrow,
            seed: 0x1234_5678_9abc,
        };
        let gradients: Vec<_> =
            lengths.iter().map(|&len| ops.tensor(Kind::Gradient, lab.values(len))).collect();
        let all = weights.iter_mut().zip(&gradients).zip(&mut moments).enumerate();
        let updates = all.map(|(number, ((parameter, gradient), moments))| Update {
            parameter,
            gradient,
            moments,
            decays: number % 2 == 0,
            number: number as u32,
            first: 0,
        });
        ops.adamw(&settings, updates.collect());
    }
    ops.check()?;
    let read = |(weight, moments)| {
        (ops.values(weight, ops.len(weight)), ops.read_moments(moments).into_owned())
    };
    Ok(weights.iter().zip(&moments).map(read).collect())
}

/// Tokens drawn from logits: the processor's, whatever the rule.
pub(super) fn sampling(lab: &mut Lab<'_>) -> Result<()> {
    let (rows, vocabulary) = (4, lab.pick(701, 151_936));
    let products: Vec<f32> = lab.values(rows * vocabulary).iter().map(|x| 4.0 * x).collect();
    let (ops, table) = (lab.ops.clone(), lab.tensor(Kind::Statistic, &products));
    for (temperature, top_k, top_p) in
        [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.7, 0, 0.8), (1.3, 5, 1.0), (2.0, 40, 0.5)]
    {
        let choice = Choice { temperature, top_k, top_p };
        for logits in [LogitRule::PLAIN, LogitRule { scale: 0.5, softcap: Some(30.0) }] {
            let chances: Vec<u64> =
                (0..rows).map(|row| crate::sampling::chance(lab.seed, "row", row)).collect();
            let halves: Vec<u32> =
                chances.iter().flat_map(|&bits| [bits as u32, (bits >> 32) as u32]).collect();
            let shape = SampleShape { rows, vocabulary, logits, choice, last: 8 };
            let [mut tokens, mut positions, mut taken, mut picked] =
                [5, 3, 0, 0].map(|value| ops.index(&vec![value; rows]));
            let draw = Draw {
                tokens: &mut tokens,
                positions: &mut positions,
                taken: &mut taken,
                picked: &mut picked,
                chances: &ops.index(&halves),
            };
            ops.sample(draw, &table, shape);
            let expected: Vec<u32> = (0..rows)
                .map(|i| {
                    let mut row = products[i * vocabulary..][..vocabulary].to_vec();
                    logits.apply(&mut row);
                    choice.pick(&row, chances[i])
                })
                .collect();
            let found = ops.index_values(&picked, rows);
            ops.check()?;
            let fault = (found != expected).then(|| format!("{found:?}, not {expected:?}"));
            lab.tell(format!("V {vocabulary}, {choice:?}, {logits:?}"), 0.0, 0.0, fault);
        }
    }
    Ok(())
}
