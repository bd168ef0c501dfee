#include "normalised.hpp"
#include "part.hpp"

std::vector<float> normalised_by_nvcc(std::vector<float> const& x) { return normalised(x); }
