"""Tests that the quick suite, `make test`, leaves to longer ones.

SLOW ones run in `make test-slow` alone, LONG ones also in `make test-long`,
which continuous integration runs after the quick suite. Each compiles programs
of its own for a case that another test, or another variant of the same one, has
in the quick suite in a simpler form. Entries are the beginnings of
'module::test[variant]'. Of modules whose tests are generated for every method
or task, SHARES says how many of 4 variants are quick, and how many are long.
"""

import zlib

SLOW = (
  'test_beam::test_enough_beams_find_everything[1.0',
  'test_beam::test_scores_are_the_learners[cache0',
  'test_beam::test_scores_are_the_learners[cache2',
  'test_cache::test_stages_change_nothing[11',
  'test_cache::test_stages_change_nothing[40',
  "test_cache::test_the_sampler_is_the_learner[{'slots': 2}-itself",
  "test_cache::test_the_sampler_is_the_learner[{'slots': 2}-longer",
  "test_cache::test_the_sampler_is_the_learner[{'stages': 3}-all",
  "test_cache::test_the_sampler_is_the_learner[{'stages': 3}-itself",
  "test_cache::test_the_sampler_is_the_learner[{'stages': 3}-longer",
  'test_cache::test_the_sampler_is_the_learner[{}-itself',
  'test_cache::test_the_sampler_is_the_learner[{}-longer',
  'test_collect_models::test_counterfactual_marks_by_a_slow_loop',
  'test_conditioned::test_the_reward_is_along_the_direction[-30',
  'test_conditioned::test_the_reward_is_along_the_direction[-45',
  'test_decoder_view::test_a_truncated_run_has_a_first_ratio_of_one',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[min_p',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[sample',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[top_k',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[typical',
  'test_frozen_lake::test_extreme_lakes',
  'test_frozen_lake::test_heldout_lakes_are_other_lakes',
  'test_guides::test_slots_and_rows_change_nothing[1]',
  'test_guides::test_the_learner_replays_what_was_drawn_from[None-sample',
  'test_guides::test_the_learner_replays_what_was_drawn_from['
  'Shared(prompt_length=5, group_size=3, parts=1)',
  'test_metamorphic_numerics::test_bfloat16_inputs_give_nearly_the_same['
  'contrastive',
  'test_metamorphic_numerics::test_bfloat16_inputs_give_nearly_the_same['
  'preference',
  'test_metamorphic_numerics::test_bfloat16_inputs_give_nearly_the_same['
  'supervised',
  'test_metamorphic_numerics::test_bfloat16_inputs_give_nearly_the_same['
  'token_weights',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[contrastive',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[distillation',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[flow',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[preference',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[supervised',
  'test_metamorphic_numerics::test_no_compilation_gives_the_same[token_weights',
  'test_model::test_chunked_scoring_is_unchunked[llama',
  'test_model::test_chunked_scoring_is_unchunked[qwen2',
  'test_model::test_unrolled_and_rematerialised_are_the_scan[llama',
  'test_model::test_unrolled_and_rematerialised_are_the_scan[qwen2',
  'test_prefix_rft::test_advantages_of_rows[none',
  'test_puzzles::test_verdicts_agree_with_python[sokoban-knobs6',
  'test_recipes_preference::test_own_answers_get_better[online_dpo',
  'test_recipes_preference::test_the_loss_falls[kto',
  'test_recipes_preference::test_the_loss_falls[online_dpo',
  'test_recipes_preference::test_the_student_comes_closer_to_its_teacher[gkd',
  'test_recipes_rl::test_the_reward_rises[ppo',
  'test_recipes_rl::test_the_reward_rises[rloo',
  'test_recipes_sft::test_the_loss_falls[psft',
  'test_recipes_sft::test_the_loss_falls[una',
  'test_rl_hybrid::test_splits_and_order_change_nothing[luffy',
  'test_rl_learn::test_the_controller_sets_the_temperature_of_exploring',
  'test_rollout::test_a_completion_depends_on_its_identity_alone[rows0',
  'test_rollout::test_a_completion_depends_on_its_identity_alone[rows2',
  'test_rollout::test_fingerprints_depend_on_every_token',
  'test_rollout::test_splits_are_disjoint_and_of_the_right_share',
  'test_shared::test_a_step_is_the_same_step[luffy',
  'test_shared::test_numbers_and_gradients_of_whole_rows[grouped heads',
  'test_shared::test_numbers_and_gradients_of_whole_rows[untied',
  'test_slots::test_any_number_of_slots_gives_the_same[1]',
  'test_slots::test_any_number_of_slots_gives_the_same[23]',
  'test_slots::test_any_number_of_slots_gives_the_same[8]',
  'test_sokoban::test_extreme_levels',
  'test_sokoban::test_heldout_levels_are_other_levels',
  'test_task_answers::test_answers_follow_from_the_prompt[entity_tracking',
  'test_task_answers::test_answers_follow_from_the_prompt[list_functions',
  'test_task_answers::test_answers_follow_from_the_prompt[modular',
  'test_task_answers::test_answers_follow_from_the_prompt[multiplication',
  'test_task_answers::test_answers_follow_from_the_prompt[sorting',
  'test_tasks::test_jit_without_vmap',
  'test_tasks::test_oracle_is_right[calculator-knobs',
  'test_tasks::test_oracle_is_right[countdown-thought',
  'test_tasks::test_oracle_is_right[dictionary-knobs',
  'test_tasks::test_oracle_is_right[make24-thought',
  'test_text_tasks::test_rl_two_steps_and_two_more_are_four',
  'test_text_tasks::test_sft_on_answers_learns[bpe',
  'test_train::test_eight_devices_train_as_one[sft',
  'test_train::test_starting_from_another_run',
  'test_train::test_two_steps_and_two_more_are_four[ppo',
  'test_train::test_two_steps_and_two_more_are_four[sft',
  'test_train_paradigms::test_eight_devices_train_as_one',
  'test_trainer_preference::test_microbatches_change_nothing[bco',
  'test_trainer_preference::test_microbatches_change_nothing[orpo',
  'test_turns::test_random_play_is_that_of_the_reference[frozen_lake_game-dark',
  'test_turns::test_random_play_is_that_of_the_reference[sokoban_game',
  'test_turns_rollout::test_rollouts_are_answered[dictionary',
)

LONG = (
  'test_beam::test_a_prompt_does_not_depend_on_its_batch',
  'test_beam::test_a_stop_sequence_ends_a_beam',
  'test_beam::test_enough_beams_find_everything',
  'test_beam::test_length_penalty_by_hand',
  'test_beam::test_results_are_those_of_transformers[2',
  'test_beam::test_results_are_those_of_transformers[4-0',
  'test_beam::test_scores_are_the_learners',
  'test_benchmarks::test_long_rows_say_what_a_program_needs',
  'test_benchmarks::test_our_side_of_generation_at_toy_size',
  "test_cache::test_the_sampler_is_the_learner[{'slots': 2}",
  "test_cache::test_the_sampler_is_the_learner[{'stages': 3}",
  'test_cache::test_stages_change_nothing[5',
  'test_cache::test_stored_dtypes_are_near[bfloat16',
  'test_collect::test_fixed_pairs_are_those_of_their_problem',
  'test_collect::test_guides_steer_what_models_answer',
  'test_collect_models::test_completions_of_a_model_and_the_oracle',
  'test_conditioned::test_heldout_here_is_heldout_there',
  'test_conditioned::test_the_inner_problem_is_untouched',
  'test_conditioned::test_the_reward_is_along_the_direction',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[top_p',
  'test_evaluate::test_beam_accuracy_is_of_the_best_beam',
  'test_evaluate::test_guides_steer_every_answer',
  'test_guides::test_the_end_waits_for_min_tokens',
  'test_guides::test_the_learner_replays_what_was_drawn_from[None',
  'test_host_turns::test_what_the_host_says_has_its_place',
  'test_measures::test_probe_of_the_base_itself_is_no_divergence',
  'test_measures::test_prompts_of_any_kind',
  'test_measures::test_without_a_base_and_confidence_by_consistency',
  'test_model::test_a_shared_prefix_is_read_in_place[llama',
  'test_model::test_a_shared_prefix_is_read_in_place[qwen2',
  'test_model::test_later_tokens_do_not_change_earlier_logits[llama',
  'test_model::test_unrolled_and_rematerialised_are_the_scan[qwen3-fields1',
  'test_prefix_rft::test_a_demonstration_that_is_too_long_begins_nothing',
  'test_prefix_rft::test_advantages_of_rows',
  'test_prefix_rft::test_answers_go_on_from_the_beginning',
  'test_prefix_rft::test_beginnings_are_of_the_demonstration',
  'test_prefix_rft::test_micro_batches_change_nothing',
  'test_puzzles::test_verdicts_agree_with_python[make24-knobs0',
  'test_puzzles::test_verdicts_agree_with_python[sokoban-knobs7',
  'test_puzzles::test_verdicts_agree_with_python[frozen_lake-knobs5',
  'test_recipes_preference::test_the_loss_falls[simpo',
  'test_recipes_rl::test_the_reward_rises[chord',
  'test_recipes_sft::test_own_answers_get_better[nft',
  'test_rl_hybrid::test_splits_and_order_change_nothing[chord',
  'test_rollout::test_greedy_is_the_argmax_of_the_full_forward',
  'test_slots::test_completions_that_never_end_or_end_at_once',
  'test_slots::test_slots_of_runs_side_by_side',
  'test_slots::test_the_order_of_prompts_moves_with_them',
  'test_study_',
  'test_subset::test_no_more_problems_than_asked_for_and_none_held_out',
  'test_subset::test_a_run_trains_on_them_and_is_judged_on_others[preference',
  'test_sweep::test_account_adds_up',
  'test_sweep::test_devices_share_the_runs',
  'test_sweep::test_starts_from_given_parameters',
  'test_text_tasks::test_one_bad_verification_costs_one_reward',
  'test_text_tasks::test_problems_do_not_depend_on_the_hash_seed',
  'test_text_tasks::test_sft_on_a_file_resumes',
  'test_token_rewards_progress::test_progress_agrees',
  'test_train::test_sigterm_saves_and_the_run_goes_on',
  'test_train_paradigms::test_two_steps_and_two_more_are_four[spin',
  'test_turns::test_random_play_is_that_of_the_reference[calculator',
  'test_turns::test_random_play_is_that_of_the_reference[dictionary',
  'test_turns_rollout::test_any_number_of_slots_gives_the_same',
  'test_turns_rollout::test_rollouts_are_answered',
)

# module -> (quick, long) of 4
SHARES = {
  'test_metamorphic': (1, 1),
  'test_metamorphic_numerics': (1, 1),
  'test_tasks': (2, 2),
  'test_trl_parity': (2, 2),
  'test_twins': (2, 2),
}


def group(module: str, test: str) -> str:
  """'quick', 'long' or 'slow', of a test by its name with its variant."""
  name = f'{module}::{test}'
  if name.startswith(SLOW):
    return 'slow'
  if module in SHARES and '[' in test:
    quick, long = SHARES[module]
    place = zlib.crc32(name.encode()) % 4
    if place < quick:
      return 'quick'
    return 'long' if place < quick + long else 'slow'
  return 'long' if name.startswith(LONG) else 'quick'
