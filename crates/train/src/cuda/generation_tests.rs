//! Generation on the emulated device: sampling against the processor's, and whole answers against the
//! plain path of one prompt and one token at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Result;

use super::Cuda;
use super::emulator::Emulator;
use super::tests::{QWEN3, tiny};
use crate::model::{Decoder, KvCache, Model};
use crate::ops::sample::{Choice, NO_TOKEN};
use crate::ops::testing::random;
use crate::ops::*;
use crate::sampling::chance;
use crate::slots::{self, Answers, Room, Times};

fn device() -> Option<(Arc<Emulator>, Cuda)> {
    let emulator = Arc::new(Emulator::new((8, 0))?);
    Some((Arc::clone(&emulator), Cuda::new(emulator)))
}

const CHOICES: [Choice; 6] = [
    Choice::GREEDY,
    Choice { temperature: 1.0, top_k: 0, top_p: 1.0 },
    Choice { temperature: 0.7, top_k: 0, top_p: 0.8 },
    Choice { temperature: 1.3, top_k: 5, top_p: 1.0 },
    Choice { temperature: 2.0, top_k: 40, top_p: 0.5 },
    Choice { temperature: 0.05, top_k: 0, top_p: 0.999 },
];

#[test]
fn sampled_tokens_are_those_of_the_processor() {
    let Some((_, ops)) = device() else { return };
    let (rows, vocabulary) = (4, 701);
    let mut products: Vec<f32> =
        random(1, rows * vocabulary).into_iter().map(|x| 4.0 * x).collect();
    // Ties, two zeros, logits that are ruled out, one that is no number.
    for id in (0..vocabulary).step_by(3) {
        products[vocabulary + id] = 1.5;
    }
    products[2 * vocabulary..3 * vocabulary].fill(-0.0);
    products[2 * vocabulary + 9] = 0.0;
    products[2 * vocabulary + 20..][..600].fill(f32::NEG_INFINITY);
    products[3 * vocabulary + 77] = f32::NAN;
    let table = ops.tensor(Kind::Statistic, products.clone());
    for choice in CHOICES {
        for logits in [LogitRule::PLAIN, LogitRule { scale: 0.5, softcap: Some(30.0) }] {
            let chances: Vec<u64> = (0..2 * rows).map(|i| chance(1, "row", i)).collect();
            let halves: Vec<u32> =
                chances.iter().flat_map(|&bits| [bits as u32, (bits >> 32) as u32]).collect();
            let shape = SampleShape { rows, vocabulary, logits, choice, last: 8 };
            let [mut tokens, mut positions, mut taken] =
                [[5; 4], [3, 7, 8, 0], [0; 4]].map(|values| ops.index(&values));
            let (mut picked, bits) = (ops.index(&[0; 8]), ops.index(&halves));
            for _ in 0..2 {
                let draw = Draw {
                    tokens: &mut tokens,
                    positions: &mut positions,
                    taken: &mut taken,
                    picked: &mut picked,
                    chances: &bits,
                };
                ops.sample(draw, &table, shape);
            }
            let expected: Vec<u32> = (0..2 * rows)
                .map(|i| {
                    let mut row = products[i % rows * vocabulary..][..vocabulary].to_vec();
                    logits.apply(&mut row);
                    choice.pick(&row, chances[i])
                })
                .collect();
            let found = ops.index_values(&picked, 8);
            ops.check().expect("no fault");
            assert_eq!(found, expected, "{choice:?}, {logits:?}");
            assert_eq!(found[3], NO_TOKEN);
            let mut next = expected[4..].to_vec();
            next[3] = 0;
            assert_eq!(ops.index_values(&tokens, 4), next);
            assert_eq!(ops.index_values(&positions, 4), [5, 8, 8, 2]);
            assert_eq!(ops.index_values(&taken, 4), [2; 4]);
        }
    }
}

#[test]
fn a_row_of_a_prompts_product_does_not_depend_on_the_others() {
    for capability in [(8, 0), (9, 0)] {
        let Some(emulator) = Emulator::new(capability) else { return };
        let ops = Cuda::new(Arc::new(emulator));
        for n in [40, 136] {
            let k = 1024;
            let x = random(1, 140 * k);
            let weight = ops.tensor(Kind::Weight, random(2, n * k));
            let run = |rows: std::ops::Range<usize>| {
                let x = ops.tensor(Kind::Activation, x[rows.start * k..rows.end * k].to_vec());
                let mut y = ops.tensor(Kind::Activation, vec![f32::NAN; rows.len() * n]);
                let shape = LinearShape::new(rows.len(), k, n);
                ops.linear_prompts(&mut y, &x, &weight, Plus::NOTHING, shape);
                let values = ops.values(&y, rows.len() * n);
                ops.check().expect("no fault");
                values
            };
            let all = run(0..140);
            assert!(all.iter().all(|y| y.is_finite()));
            for rows in [0..1, 3..10, 120..140] {
                assert_eq!(run(rows.clone()), all[rows.start * n..rows.end * n]);
            }
        }
    }
}

/// Prompts of unequal lengths; an answer ends at a token that 9 divides, or after so many.
struct Asked {
    waiting: VecDeque<(usize, Vec<u32>)>,
    answers: Vec<Vec<u32>>,
    most: usize,
}

impl Asked {
    fn new(prompts: usize, most: usize) -> Self {
        let prompt =
            |i: usize| (0..1 + i * 5 % 13).map(|j| ((i * 31 + j * 7) % 96) as u32).collect();
        let waiting = (0..prompts).map(|i| (i, prompt(i))).collect();
        Self { waiting, answers: vec![Vec::new(); prompts], most }
    }
}

impl Answers for Asked {
    type Item = (usize, Vec<u32>);

    fn next(&mut self, shortest: usize) -> Option<Self::Item> {
        self.waiting.pop_front_if(|(_, prompt)| prompt.len() >= shortest)
    }
    fn prompt<'a>(&self, item: &'a Self::Item) -> &'a [u32] {
        &item.1
    }
    fn left(&self, (i, _): &Self::Item) -> usize {
        self.most - self.answers[*i].len()
    }
    fn chance(&self, (i, _): &Self::Item, ahead: usize) -> u64 {
        chance(7, &i.to_string(), self.answers[*i].len() + ahead)
    }
    fn take(&mut self, item: Self::Item, token: u32) -> Result<Option<Self::Item>> {
        self.answers[item.0].push(token);
        Ok((!token.is_multiple_of(9) && self.left(&item) > 0).then_some(item))
    }
    fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Each prompt alone, a token at a time, chosen on the host.
fn plainly(model: &mut Decoder<Cuda>, choice: Choice, mut asked: Asked) -> Vec<Vec<u32>> {
    while let Some(item) = asked.next(0) {
        let mut cache = KvCache::new(model, 1, 64);
        let mut logits = model.prefill(&mut cache, &[(0, &item.1)]).expect("logits");
        let mut going = Some(item);
        while let Some(item) = going {
            let token = choice.pick(logits.row(0), asked.chance(&item, 0));
            going = asked.take(item, token).expect("a token");
            if going.is_some() {
                logits = model.decode(&mut cache, &[(0, token)]).expect("logits");
            }
        }
    }
    asked.answers
}

#[test]
fn answers_do_not_depend_on_slots_and_recordings() {
    let Some((emulator, ops)) = device() else { return };
    let mut model: Decoder<Cuda> = Model::random(tiny(QWEN3), 7).copy_to(ops);
    let (prompts, most) = (5, 11);
    let sampled = Choice { temperature: 1.0, top_k: 20, top_p: 0.9 };
    for (choice, slots) in [(sampled, &[1, 3][..]), (Choice::GREEDY, &[16])] {
        let expected = plainly(&mut model, choice, Asked::new(prompts, most));
        assert!(expected.iter().any(|answer| answer.len() == most), "{expected:?}");
        assert!(expected.iter().any(|answer| answer.len() < most / 2), "{expected:?}");
        for &slots in slots {
            let before = emulator.replays();
            let mut asked = Asked::new(prompts, most);
            let lengths: Vec<usize> = asked.waiting.iter().map(|(_, ids)| ids.len()).collect();
            let room = Room::new(slots, &lengths, (most, 64), 20);
            let mut times = Times::default();
            let refusal = slots::run(&mut model, room, choice, &mut asked, &mut times);
            assert_eq!(refusal.expect("answers"), None);
            assert_eq!(asked.answers, expected, "{slots} slots, {choice:?}");
            assert!(emulator.replays() > before, "steps are run by their recordings");
        }
    }
}
