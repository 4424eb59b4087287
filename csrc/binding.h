// What the parts of Python's door share.
#pragma once

#include <nanobind/nanobind.h>

#include "dispatch.h"
#include "exchange.h"

namespace elman {

const Target*& target();           // the instruction set in use
const ExchangeApi*& exchange();    // how tensors are looked at; null: not at all
void bind_stream(nanobind::module_& m);  // stream_binding.cpp

}  // namespace elman
