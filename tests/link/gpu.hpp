#pragma once

#include <vector>

/// Logits of a small BlackMamba with the same weights on either.
std::vector<float> logits_on_cpu();
std::vector<float> logits_on_gpu();
bool gpu_there();
