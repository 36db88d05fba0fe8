#!/usr/bin/env bash
# How the bundled model was made: 2.3 M parameters on Tiny Shakespeare, about 20 minutes on two CPU cores.
#   recipes/shakespeare-mini.sh input.txt DESTINATION
# input.txt: 1,115,394 bytes, sha256 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed,
# public-domain text by William Shakespeare in Andrej Karpathy's selection (char-rnn, data/tinyshakespeare).
set -euo pipefail
text=$1 destination=$2
gpt-tui train "$text" --name shakespeare-mini --preset gpt-mini --tokenizer bpe:1024 \
    --set n_layer=6 --set n_head=6 --set n_embd=168 --set block_size=256 --set sequence_length=256 \
    --set batch_size=12 --set max_steps=1600 --set learning_rate=2e-3 --set dropout=0.2 \
    --set eval_interval=100 --set checkpoint_interval=200 --set sample_interval=200 --set sample_prompt=ROMEO: --set seed=1
# 16 bits a weight halve the file; it is read back as float32
gpt-tui models export shakespeare-mini:best "$destination" --format huggingface --dtype float16
