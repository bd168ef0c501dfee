#include "computed.hpp"

Computed computed_by_nvcc() { return computed(); }
