//! Plans of generation against what it takes on the emulated device, and what is said where it does not fit.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::cuda::emulator::Emulator;
use crate::memory::tests::{models, wide};
use crate::model::Model;
use crate::slots::{self, Answers, Times};

/// Prompts of these lengths, each of which gets an answer of so many tokens.
struct Prompts {
    waiting: VecDeque<Vec<u32>>,
    new: usize,
    answered: usize,
}

impl Prompts {
    fn new(lengths: &[usize], new: usize) -> Self {
        let waiting = lengths.iter().map(|&length| vec![5; length]).collect();
        Self { waiting, new, answered: 0 }
    }
}

impl Answers for Prompts {
    type Item = (Vec<u32>, usize);

    fn next(&mut self, shortest: usize) -> Option<Self::Item> {
        Some((self.waiting.pop_front_if(|prompt| prompt.len() >= shortest)?, 0))
    }
    fn prompt<'a>(&self, item: &'a Self::Item) -> &'a [u32] {
        &item.0
    }
    fn left(&self, item: &Self::Item) -> usize {
        self.new - item.1
    }
    fn chance(&self, _: &Self::Item, _: usize) -> u64 {
        0
    }
    fn take(&mut self, (prompt, had): Self::Item, _: u32) -> Result<Option<Self::Item>> {
        self.answered += usize::from(had + 1 == self.new);
        Ok((had + 1 < self.new).then_some((prompt, had + 1)))
    }
    fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_plan_is_what_generation_takes_to_the_byte_and_no_answer_takes_more() {
    for (number, shape) in models().into_iter().enumerate() {
        let Some(emulator) = Emulator::new((8 + number as u32, 0)) else { return };
        let cuda = Cuda::new(Arc::new(emulator));
        let (lengths, new) = ([3, 9, 1, 5], 6);
        let asked = Asked { lengths: &lengths, new, slots: 3 };
        let plans = GenerationPlan::all(&shape, asked, &Place::of(&cuda).unwrap()).unwrap();
        let [plan] = &plans[..] else { panic!("one cache") };
        assert_eq!((plan.room.slots, plan.room.capacity, plan.room.shortest), (3, 15, 0));
        // Keys and values of a spare slot beside the three, two layers, one head of 16, in bf16.
        assert_eq!(plan.parts[1], 4 * 2 * 2 * 15 * 16 * 2);

        GenerationPlan::reserve(&plans, &cuda).unwrap();
        plan.begin(&cuda);
        let mut model = Model::random(shape, 7).copy_as(cuda.clone(), Kind::Frozen);
        assert_eq!(run_through(&mut model, plan.room).unwrap(), plan.parts);
        assert_eq!(cuda.pool().top() as u64, plan.total());
        plan.begin(&cuda);
        let mut prompts = Prompts::new(&lengths, new);
        let mut times = Times::default();
        let refusal = slots::run(&mut model, plan.room, Choice::GREEDY, &mut prompts, &mut times);
        assert_eq!((refusal.unwrap(), prompts.answered), (None, 4));
        assert_eq!((cuda.pool().top() as u64, cuda.pool().allocations()), (plan.total(), 0));
    }
}

/// A Hopper card with so much memory.
fn card(memory: u64) -> Place {
    Place::imagined(memory)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 30, ..ProptestConfig::with_cases(8) })]
    #[test]
    fn no_prompts_take_more_than_the_plan(
        lengths in prop::collection::vec(1_usize..3000, 1..30),
        new in 1_usize..40,
        memory in 900_u64..2500,
    ) {
        let (shape, place) = (wide(), card(memory << 20));
        let asked = Asked { lengths: &lengths, new, slots: 0 };
        let Ok(plans) = GenerationPlan::all(&shape, asked, &place) else { return Ok(()) };
        let Place::Card { facts, .. } = place else { unreachable!() };
        let cuda = Cuda::new(Arc::new(Counter::new(facts)));
        GenerationPlan::reserve(&plans, &cuda).unwrap();
        let mut model = Decoder::zeros_as(cuda.clone(), Kind::Frozen, shape);
        let mut sorted = lengths.clone();
        sorted.sort_by_key(|&length| std::cmp::Reverse(length));
        let mut prompts = Prompts::new(&sorted, new);
        for plan in &plans {
            prop_assert!(plan.needed() <= memory << 20);
            plan.begin(&cuda);
            slots::run(&mut model, plan.room, Choice::GREEDY, &mut prompts, &mut Times::default()).unwrap();
        }
        prop_assert_eq!(prompts.answered, lengths.len());
        prop_assert_eq!(cuda.pool().allocations(), 0);
    }
}

#[test]
fn the_slots_are_those_that_memory_has_room_for_and_what_does_not_fit_is_said_with_what_would() {
    let shape = wide();
    let lengths: Vec<usize> = (1..=400).map(|i| 10 * i).collect();
    let all = |memory, asked| GenerationPlan::all(&shape, asked, &card(memory));
    let asked = Asked { lengths: &lengths, new: 100, slots: 0 };
    let plenty = all(80_000_000_000, asked).unwrap();
    assert_eq!((plenty.len(), plenty[0].room.slots, plenty[0].room.capacity), (1, 256, 4100));
    let few = all(80_000_000_000, Asked { slots: 5, ..asked }).unwrap();
    assert_eq!(few[0].room.slots, 5);
    // Less than 256 slots of the longest: those that are less than half as long have a cache of their own.
    let tight = all(plenty[0].needed() - 1, asked).unwrap();
    assert!(tight.len() > 1 && tight[0].room.slots < 256, "{tight:?}");
    assert_eq!((tight[0].room.shortest, tight[1].room.longest), (1950, 1940));
    assert_eq!(tight[1].room.slots, 194, "a slot for each of them");
    // One slot more than fits is too many.
    let next = rehearse(&shape, room(&shape, asked, tight[0].room.slots + 1), &card(0)).unwrap();
    assert!(next.needed() >= plenty[0].needed());

    let one = rehearse(&shape, room(&shape, asked, 1), &card(0)).unwrap().needed();
    let error = all(one + (1 << 20), Asked { new: 30_000, ..asked }).unwrap_err();
    assert!(artifact::error::is_user(&error));
    let error = error.to_string();
    for words in
        ["KV cache", "1 slots of 32,768", "missing", "max_new_tokens = ", "tokens, without the"]
    {
        assert!(error.contains(words), "{error}");
    }
    let error = all(100 << 20, asked).unwrap_err().to_string();
    assert!(error.contains("a smaller model or a larger card"), "{error}");
}
