#include <blackmamba/verify/problems/activation_backward.hpp>
#include <blackmamba/verify/problems/cross_entropy_backward.hpp>
#include <blackmamba/verify/problems/elementwise.hpp>
#include <blackmamba/verify/problems/embedding.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: maps, embeddings and backward passes hold to the table on every context, for every scalar and shape", T,
                   float, double, half, bf16) {
  test::check_contexts<AddProblem, T>();
  test::check_contexts<ConvertProblem, T>();
  test::check_contexts<DecayProblem, T>();
  test::check_contexts<DecayBackwardProblem, T>();
  test::check_contexts<ExpandHeadsProblem, T>();
  test::check_contexts<ExpandHeadsBackwardProblem, T>();
  test::check_contexts<ActivationBackwardProblem, T>();
  test::check_contexts<GatedUnitBackwardProblem, T>();
  test::check_contexts<CrossEntropyBackwardProblem, T>();
  test::check_contexts<EmbeddingProblem, T>();
  test::check_contexts<EmbeddingBackwardProblem, T>();
}

TEST_CASE_TEMPLATE("verify: maps, embeddings and backward passes run with correctly rounded storage around exact arithmetic", T,
                   bf16, half) {
  test::check_exact<AddProblem, T>();
  test::check_exact<DecayProblem, T>();
  test::check_exact<DecayBackwardProblem, T>();
  test::check_exact<ExpandHeadsProblem, T>();
  test::check_exact<ExpandHeadsBackwardProblem, T>();
  test::check_exact<ActivationBackwardProblem, T>();
  test::check_exact<GatedUnitBackwardProblem, T>();
  test::check_exact<CrossEntropyBackwardProblem, T>();
  test::check_exact<EmbeddingProblem, T>();
  test::check_exact<EmbeddingBackwardProblem, T>();
}
