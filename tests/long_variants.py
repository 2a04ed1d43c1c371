"""Variants of tests that the quick suite leaves to `make test-slow`.

The quick suite (`make test`) has at least one variant of every test here, and
each of them is minutes of compiling for a case that differs in one setting.
Entries are the beginnings of 'module::test[variant]'.
"""

LONG_VARIANTS = (
  'test_collect_models::test_counterfactual_marks_by_a_slow_loop',
  'test_conditioned::test_the_reward_is_along_the_direction[-45',
  'test_decoder_view::test_a_truncated_run_has_a_first_ratio_of_one',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[min_p',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[sample',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[top_k',
  'test_decoder_view::test_the_learner_replays_what_was_drawn[typical',
  'test_frozen_lake::test_extreme_lakes',
  'test_frozen_lake::test_heldout_lakes_are_other_lakes',
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
  'test_recipes_preference::test_own_answers_get_better[online_dpo',
  'test_recipes_preference::test_the_loss_falls[online_dpo',
  'test_recipes_preference::test_the_student_comes_closer_to_its_teacher[gkd',
  'test_recipes_rl::test_the_reward_rises[ppo',
  'test_recipes_rl::test_the_reward_rises[rloo',
  'test_recipes_sft::test_the_loss_falls[una',
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
  'test_text_tasks::test_rl_two_steps_and_two_more_are_four',
  'test_text_tasks::test_sft_on_answers_learns[bpe',
  'test_train::test_eight_devices_train_as_one[sft',
  'test_train::test_starting_from_another_run',
  'test_train::test_two_steps_and_two_more_are_four[ppo',
  'test_train::test_two_steps_and_two_more_are_four[sft',
)
