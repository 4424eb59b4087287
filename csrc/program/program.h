// A program as it comes from Python: checked once, and rewritten for the scan.
#pragma once

#include <memory>

#include "check.h"

namespace elman {

class Program {
 public:
  struct Counts {
    int inputs, recurrents, states, draws, gates, saved;
  };
  // Throws std::invalid_argument unless the program can be run. `products`: for each product the recurrent gates that
  // it is for.
  Program(const CodeText& infer, const CodeText& train, const CodeText& backward,
      const std::vector<std::vector<int>>& products, const Counts& counts, const std::vector<bool>& own,
      const std::vector<bool>& step_inputs);
  Program(const Program&) = delete;

  const Plan& plan() const { return plan_; }
  int number() const { return number_; }     // tells programs apart
  double weight() const { return weight_; }  // of a step of a unit beside its products, in multiply-adds

 private:
  void count(const Counts& counts, const std::vector<bool>& own, const std::vector<bool>& step_inputs);
  void assign(const std::vector<std::vector<int>>& products);
  void find_states();
  void join_parts();
  void share_columns();
  void arrange_columns();
  void arrange_arrays();
  void sum_own_gradients();
  void hoist();
  void keep_what_stages_share();

  Plan plan_{};
  CodeLines infer_, train_, backward_, phased_infer_, phased_train_, phased_backward_;
  std::vector<std::vector<std::int32_t>> product_gates_;
  std::vector<GateProduct> products_;
  std::vector<std::int32_t> product_of_, joined_input_, joined_recurrent_;
  std::vector<std::int32_t> sharing_input_, shared_recurrent_;  // gates that have one gradient: -1, or the other part's
  std::vector<std::int32_t> column_of_input_, column_of_recurrent_, input_order_, array_of_input_, array_of_recurrent_;
  std::unique_ptr<bool[]> own_, step_inputs_, reads_state_, reads_new_state_, writes_grad_state_;
  int number_;
  double weight_ = 0;
};

}  // namespace elman
