"""Tests that the quick suite, `make test`, leaves to longer ones.

SLOW ones run in `make test-slow` alone, LONG ones also in `make test-long`,
which continuous integration runs after the quick suite. Each is a whole run, or
compiles programs of its own for a case that another test, or another variant of
the same one, has in the quick suite in a simpler form. Entries are the
beginnings of 'module::test[variant]'. Of modules whose tests are generated for
every method or task, SHARES says how many of 8 variants are quick, and how many
are long.
"""

import zlib

from slow_variants import SLOW

LONG = (
  'test_text_tasks::test_evaluator_by_hand',
  'test_trainer_preference::test_microbatches_change_nothing[dpo-0.0',
  'test_adapters::test_only_an_update_drops[lora',
  'test_adapters_tables::test_it_is_the_merged_model[tied',
  'test_collect_second::test_second_tries_stand_behind_the_first',
  'test_rl_hybrid::test_srft_by_hand',
  'test_remat::test_the_more_is_kept_the_less_is_computed_again[grouped',
  'test_collect_second::test_which_tries_count[all-counted0',
  'test_own_inputs::test_scores_are_of_what_is_read',
  'test_trainer_arrays::test_prepared_arrays_are_direct_scores',
  'test_recipe_forms_preference::test_a_recipe_is_its_source[copg',
  'test_recipe_forms_preference::test_a_recipe_is_its_source[apo_down',
  'test_trl_parity::test_loss_and_gradients_are_those_of_trl'
  '[gkd/beta 0.3, temperature 2',
  'test_inference::test_one_prompt_is_answered',
  'test_rollout_mesh::test_decoders_over_parts_of_a_vocabulary[16',
  'test_text_tasks::test_too_long_problems_are_passed_over_and_counted',
  'test_launch::test_a_worker_finds_its_run_again',
  'test_trainer_arrays::test_arrays_made_inside_the_loss',
  'test_text_tasks::test_batch',
  'test_rewards_judge::test_what_goes_wrong_costs_one_answer',
  'test_contrastive::test_rows_that_do_not_exist_have_no_effect[inf-carft',
  'test_text_runs::test_impossible_runs_fail_before_compiling'
  '[sft.py:task=text:rush_hour-items11-no oracle answers',
  'test_trl_parity::test_loss_and_gradients_are_those_of_trl'
  '[dpo/sigmoid, forward_kl',
  'test_contrastive::test_rows_that_do_not_exist_have_no_effect'
  '[nan-simcse_diff',
  'test_report_study::test_page_has_everything_in_its_order_and_is_well_formed',
  'test_curriculum_runs::'
  'test_a_mixture_with_traced_weights_is_that_with_numbers',
  'test_model::test_cached_decode_is_the_full_forward[qwen3',
  'test_conditioned::'
  'test_evaluation_asks_at_zero_degrees_for_the_same_problems',
  'test_rl_hybrid::test_without_rows_beside_the_loss_is_that_of_grpo',
  'test_collect_second::test_the_oracle_may_try_the_second_time',
  'test_vocab::test_equals_and_uses_exactly',
  'test_rl_learn::test_demonstrations_that_are_too_long_are_left_out',
  'test_collect_models::test_feedback_writes_the_true_verdict[True',
  'test_trainer_preference::test_dpo_with_nll_is_the_sum_of_its_terms',
  'test_inference::test_what_a_model_is_loaded_from',
  'test_objectives_page::test_functions_of_the_page_resolve',
  'test_modes::test_a_short_trace_is_the_long_one_without_some_detours',
  'test_frozen_lake::test_holes_stay_where_there_is_a_way',
  'test_vocab::test_expressions_are_exact',
  'test_objectives_page::'
  'test_every_docstring_has_a_summary_and_the_url_of_its_paper',
  'test_scorers::test_scores_are_those_of_transformers[qwen2',
  'test_remat::test_gradients_are_the_same[whole-save_all_but_mlp',
  'test_contrastive::test_aepo_term_is_reinforce_on_rewards',
  'test_objectives_page::test_main_writes_the_files',
  'test_rollout::test_learner_scores_what_the_sampler_recorded',
  'test_fifth_kind::test_a_fifth_kind_trains',
  'test_runtime::test_kept_memory_is_not_faulted_in_again',
  'test_adapters_tables::test_it_is_the_merged_model[dora]',
  'test_text_runs::test_tfds_in_the_tasks_vocabulary',
  'test_trl_parity::test_loss_and_gradients_are_those_of_trl[dpo/discopop',
  'test_recipe_forms_preference::test_a_recipe_is_its_source[aot_unpaired',
  'test_rl_hybrid::test_chord_mu_by_hand',
  'test_text_tasks::test_host_step_feeds_rewards_in_place',
  'test_own_inputs::test_what_a_model_would_have_said',
  'test_modes::test_the_prompt_says_which_demonstration_comes[drawn',
  'test_principle_pairs::test_principles_of_segments',
  'test_objectives_page::test_commands_of_the_page_make_configs',
  'test_optim_moments::test_fifty_updates_are_near_those_in_float32[adamw',
  'test_scan_decode::test_programs_are_as_long_whatever',
  'test_sharding_runs::test_a_mesh_trains_as_one_device[data-fsdp-tensor-sft',
  'test_adapters::test_only_an_update_drops[dora',
  'test_adapters_runs::test_another_base_is_refused_by_name',
  'test_adapters_runs::test_checkpoints_hold_the_adapter_alone',
  'test_adapters_trained::test_a_step_moves_the_adapter',
  'test_scan_decode::test_completions_are_the_same[windows',
  'test_scan_decode::test_a_stack_is_filled_and_read_as_layers_are',
  'test_rollout_mesh::test_completions_are_those_of_one_device[data 2',
  'test_hybrid_steps::test_all_answers_of_a_problem_begin',
  'test_lab::test_problems_are_counted_by_identity',
  'test_packed_pairs::test_packing_changes_no_objective[dpo-more0',
  'test_inference::test_a_stream_draws_what_generate_draws[how0',
  'test_attention_sequence::test_attention_alone[ring-3',
  'test_recipe_forms_preference::test_the_shift_of_bco',
  'test_q_tuning::test_q_tuning_keeps_the_two_corners',
  'test_train::test_two_steps_and_two_more_are_four[grpo',
  'test_curriculum_runs::test_problems_of_a_mixture_are_drawn',
  'test_served::test_weights_of_a_step_are_what_it_has',
  'test_cache::test_long_prompts_leave_the_last_window_of_each_row',
  'test_experts::test_gradients_are_those_of_all_experts_computed',
  'test_experts::test_seeds_side_by_side',
  'test_guides::test_allowed_and_banned_tokens',
  'test_peft::test_logits_are_those_of_peft[dora',
  'test_rl_hybrid::test_chord_by_hand',
  'test_rollout::test_rows_end_with_their_stop_token',
  'test_select::test_majority_at_k_averages_blocks',
  'test_tasks::test_a_problem_depends_on_its_key_only[calculator-knobs',
  'test_tasks::test_nothing_wrong_is_rewarded[make24',
  'test_tasks::test_oracle_is_right[countdown]',
  'test_cache::test_a_window_changes_what_is_seen',
  'test_cache::test_scanned_layers_of_two_kinds_are_the_unrolled_ones',
  'test_cache::test_the_sampler_is_the_learner[{}-all layers',
  'test_drivers::test_steps_of_one_call_touch_no_host',
  'test_learned_reward::test_the_score_of_a_row_alone',
  'test_measures::test_identical_and_disjoint_samples',
  'test_measures::test_padding_and_order_do_not_matter',
  'test_model::test_a_shared_prefix_is_read_in_place[qwen3',
  'test_q_tuning::test_q_tuning_fills_up_when_the_corners_are_empty',
  'test_recipes_sft::test_the_loss_falls[sft]',
  'test_rollout::test_other_steps_prompts_and_samples_differ',
  'test_sweep::test_traceable_names_numbers_that_one_program_serves',
  'test_trl_parity::test_loss_and_gradients_are_those_of_trl[cpo/sigmoid',
  'test_trl_parity::test_loss_and_gradients_are_those_of_trl[dpo/apo_down',
  'test_benchmarks::test_long_rows_say_what_a_program_needs',
  'test_benchmarks::test_our_side_of_generation_at_toy_size',
  'test_cache::test_stages_change_nothing[2',
  'test_cache::test_stages_change_nothing[5',
  'test_cache::test_stored_dtypes_are_near[bfloat16',
  'test_collect::test_duplicates_are_left_out',
  'test_collect::test_fixed_pairs_are_those_of_their_problem',
  'test_collect::test_guides_steer_what_models_answer',
  'test_collect::test_oracle_noise_is_the_answer_before',
  'test_collect_rehearsal::test_self_rehearsal_prefers_own_answers',
  'test_collect_models::test_samplers_are_the_models_of_their_roles',
  'test_conditioned::test_a_mixture_can_be_conditioned',
  'test_conditioned::test_heldout_here_is_heldout_there',
  'test_conditioned::test_the_inner_problem_is_untouched',
  'test_conditioned::test_the_reward_is_along_the_direction',
  'test_evaluate::test_beam_accuracy_is_of_the_best_beam',
  'test_frozen_lake::test_every_shortest_way_is_an_oracle',
  'test_guides::test_probabilities_of_an_automaton_sum_to_one',
  'test_guides::test_slots_and_rows_change_nothing',
  'test_guides::test_the_end_waits_for_min_tokens',
  'test_guides::test_the_learner_replays_what_was_drawn_from[Shared',
  'test_lab::test_measurements_are_kept_by_what_was_asked',
  'test_measures::test_across_inputs_compares_problems',
  'test_model::test_chunked_scoring_is_unchunked[qwen3',
  'test_model::test_later_tokens_do_not_change_earlier_logits[llama',
  'test_model::test_unrolled_and_rematerialised_are_the_scan[qwen3-fields0',
  'test_model::test_unrolled_and_rematerialised_are_the_scan[qwen3-fields1',
  'test_quickstart::test_all_arms_are_compared',
  'test_recipes_preference::test_the_loss_falls[reward_model',
  'test_recipes_sft::test_own_answers_get_better[nft',
  'test_report::',
  'test_rl_hybrid::test_splits_and_order_change_nothing[chord',
  'test_rl_learn::test_carft_by_hand',
  'test_rl_learn::test_prefixes_are_judged_as_if_they_stopped_there',
  'test_rl_learn::test_trajectory_balance_reads_the_head',
  'test_rollout::test_greedy_is_the_argmax_of_the_full_forward',
  'test_slots::test_completions_that_never_end_or_end_at_once',
  'test_slots::test_slots_on_a_mesh',
  'test_study_',
  'test_subset::',
  'test_sweep::test_a_stopped_sweep_goes_on_and_ends_alike',
  'test_sweep::test_account_adds_up',
  'test_sweep::test_devices_share_the_runs',
  'test_sweep::test_host_runs_have_no_train_function',
  'test_sweep::test_run_i_of_many_is_run_i_alone',
  'test_sweep::test_traced_numbers_reach_the_program',
  'test_task_answers::',
  'test_task_formats::',
  'test_text_tasks::test_a_problem_is_its_index',
  'test_text_tasks::test_one_bad_verification_costs_one_reward',
  'test_text_tasks::test_problems_do_not_depend_on_the_hash_seed',
  'test_text_runs::test_sft_on_a_file_resumes',
  'test_text_tasks::test_splits_share_no_question',
  'test_text_tasks::test_verify_right_and_wrong',
  'test_tfds::',
  'test_token_rewards::test_a_condition_does_not_change_what_is_right',
  'test_token_rewards::test_other_right_answers_earn_what_the_oracle_would',
  'test_token_rewards_progress::',
  'test_train::test_a_finished_run_says_so',
  'test_train::test_sigterm_saves_and_the_run_goes_on',
  'test_trainer_preference::test_a_reward_model_learns_from_live_pairs',
  'test_trainer_preference::test_kto_compares_with_the_mismatched_answers',
  'test_cache::test_the_sampler_is_the_learner[{}-one of two layers',
  'test_evaluate::test_votes_and_confidence_by_counting',
  'test_guides::test_a_prefix_is_forced_and_does_not_count',
  'test_hf::test_cached_decode_of_windows_is_the_full_forward',
  'test_host_turns::',
  'test_learned_reward::test_a_trained_reward_model_is_the_judge',
  'test_mixture::',
  'test_model::test_blocks_of_queries_need_less_memory',
  'test_model::test_queries_in_blocks_are_all_queries',
  'test_prefix_rft::',
  'test_probe::',
  'test_recipes_preference::test_the_loss_falls[dpo',
  'test_rl_learn::test_kl_in_the_reward_of_tokens',
  'test_shared::test_numbers_and_gradients_of_whole_rows[plain-3',
  'test_train::test_another_config_does_not_continue_a_run',
  'test_turns_rollout::',
  'test_backtracking::',
  'test_beam::',
  'test_cache::test_stored_dtypes_are_near[int8',
  'test_lab::test_seeds_may_have_numbers_and_starts_of_their_own',
  'test_lab::test_stages_are_kept_and_go_on_from_each_other',
  'test_puzzles::',
  'test_recipes_rl::test_the_reward_rises[grpo',
  'test_rollout::test_a_completion_depends_on_its_identity_alone[rows1',
  'test_slots::test_any_number_of_slots_gives_the_same[3]',
  'test_spectra::',
  'test_turns::',
  'test_turns_train::',
)

# module -> (quick, long) of 8
SHARES = {
  'test_domains': (4, 4), 'test_token_weights': (4, 4),
  'test_policy_gradient_protocol': (4, 4), 'test_regularizers': (4, 4),
  'test_reduce_value_regularizers': (4, 4), 'test_contrastive': (4, 4),
  'test_metamorphic': (1, 0), 'test_metamorphic_numerics': (1, 1),
  'test_recipe_forms_preference': (1, 2), 'test_recipe_forms_rl': (1, 2),
  'test_recipe_forms_sft': (1, 2), 'test_tasks': (1, 0),
  'test_trl_parity': (1, 1), 'test_twins': (1, 0),
}  # fmt: skip

# Modules of which half of the long tests are slow.
HALVES = (
  'test_attention_kernels',
  'test_backtracking',
  'test_beam',
  'test_conditioned',
  'test_families',
  'test_model',
  'test_prefix_rft',
  'test_puzzles',
  'test_rollout_mesh',
  'test_scan_decode',
  'test_subset',
  'test_turns',
)


def group(module: str, test: str) -> str:
  """'quick', 'long' or 'slow', of a test by its name with its variant."""
  name = f'{module}::{test}'
  if name.startswith(SLOW):
    return 'slow'
  if name.startswith(LONG):
    return 'long'
  if module in SHARES and '[' in test:
    quick, long = SHARES[module]
    place = zlib.crc32(name.encode()) % 8
    if place < quick:
      return 'quick'
    return 'long' if place < quick + long else 'slow'
  return 'quick'


def halved(module: str, test: str) -> bool:
  """Whether a long test is left to the slow ones all the same."""
  return module in HALVES and zlib.crc32(f'{module}::{test}'.encode()) % 2 == 1
