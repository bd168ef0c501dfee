#include "support/accuracy.hpp"

TEST_CASE("verify: in float32 on a CPU every output is within 1e-5 of float64, every gradient within 1e-4") {
  test::check_float32(blackmamba::Cpu{2});
}
