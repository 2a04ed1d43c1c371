"""What TRL calls what is here, and what it has that is not."""

__all__ = ['ARGUMENTS', 'NAMES']

# {its function: ours}
NAMES = {
  'accuracy_reward': 'math_verify',
  'get_cosine_scaled_reward': 'cosine_length',
  'get_repetition_penalty_reward': 'repetition',
  'get_soft_overlong_punishment': 'soft_overlong',
  'reasoning_accuracy_reward': 'math_verify',
  'think_format_reward': 'think_format',
}
# What its trainer gives a function beside the columns, and is of that trainer.
ARGUMENTS = ('trainer_state', 'environments', 'log_extra', 'log_metric')
