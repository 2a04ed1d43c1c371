"""Objectives as pure functions: arrays in, one loss per token or pair out.

One module, or package, per signature:

  supervised       f(signals, mask)
  policy_gradient  f(logps, old_logps, advantages, mask)
  preference       f(chosen, rejected, ref_chosen, ref_rejected)
  reward_model     f(chosen_rewards, rejected_rewards)
  distillation     f(student_logits, teacher_logits, mask)
  value            f(values, returns, old_values, mask)
  regularizers     f(logps, ref_logps, mask)
  flow             f(logps, log_flows, log_rewards, mask)
  contrastive      f(anchors, positives, mask)
  reduce           f(token_loss, mask) -> (sum, count)

Each returns `(loss, metrics)` and averages nothing, except `reduce`, which is
how an average is chosen. Hyperparameters are keyword arguments with a default
and may be traced. A keyword argument without a default is a further array that
the caller has to supply.

A room's `WHOLE_BATCH` names functions whose value for one row depends on the
other rows of the call, `WHOLE_ROWS` those whose value for one token depends on
the rest of its row. `LEAST` says of how many rows a call of some
functions must be, because they compare rows; `APART` which two models
some functions compare, so that one model in both places makes no sense.
"""
