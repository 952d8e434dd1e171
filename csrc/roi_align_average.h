// The average of RoIAlign and its transpose, on one slab. Included by roi_align_isa.h alone, inside
// its namespace.

/// row[x] (+)= the weighted sum of `rows` rows of the input, for all x.
template <int rows, typename acc_t, int lanes>
MRCNN_TARGET void sum_rows(const Term<acc_t>* terms, const Grid<const acc_t>& in, acc_t* row,
                           bool accumulate) {
  const acc_t* from[rows];
  acc_t weight[rows];
#pragma GCC unroll 4
  for (int k = 0; k < rows; ++k) {
    from[k] = in.data + terms[k].at * in.row_stride;
    weight[k] = terms[k].weight;
  }
  for (int64_t i = 0; i < in.width * lanes; i += lanes) {
    auto sum = Lanes<acc_t, lanes>::scaled(weight[0], from[0] + i);
#pragma GCC unroll 4
    for (int k = 1; k < rows; ++k) sum.add_scaled(weight[k], from[k] + i);
    if (accumulate) sum.add(row + i);
    sum.store(row + i);
  }
}

template <typename acc_t, int lanes>
MRCNN_TARGET void sum_rows(const Term<acc_t>* terms, int64_t count, const Grid<const acc_t>& in,
                           acc_t* row) {
  bool accumulate = false;
  for (; count > 4; count -= 4, terms += 4, accumulate = true) {
    sum_rows<4, acc_t, lanes>(terms, in, row, accumulate);
  }
  switch (count) {
    case 1:
      return sum_rows<1, acc_t, lanes>(terms, in, row, accumulate);
    case 2:
      return sum_rows<2, acc_t, lanes>(terms, in, row, accumulate);
    case 3:
      return sum_rows<3, acc_t, lanes>(terms, in, row, accumulate);
    default:
      return sum_rows<4, acc_t, lanes>(terms, in, row, accumulate);
  }
}

/// out[j] (+)= the weighted sum x[j] of pixels of the row. `each` is x.each where that is at
/// most 4.
template <int each, typename acc_t, int lanes>
MRCNN_TARGET void sum_columns(const Sums<acc_t>& x, const acc_t* row, acc_t* out, bool accumulate) {
  const int64_t terms = each > 0 ? each : x.each;
  const Term<acc_t>* term = x.terms;
  for (int64_t j = 0; j < x.count; ++j, term += terms, out += lanes) {
    auto sum = Lanes<acc_t, lanes>::scaled(term->weight, row + term->at * lanes);
#pragma GCC unroll 4
    for (int64_t k = 1; k < terms; ++k) {
      sum.add_scaled(term[k].weight, row + term[k].at * lanes);
    }
    if (accumulate) sum.add(out);
    sum.store(out);
  }
}

template <typename acc_t, int lanes>
MRCNN_TARGET void sum_columns(const Sums<acc_t>& x, const acc_t* row, acc_t* out, bool accumulate) {
  switch (x.each) {
    case 1:
      return sum_columns<1, acc_t, lanes>(x, row, out, accumulate);
    case 2:
      return sum_columns<2, acc_t, lanes>(x, row, out, accumulate);
    case 3:
      return sum_columns<3, acc_t, lanes>(x, row, out, accumulate);
    case 4:
      return sum_columns<4, acc_t, lanes>(x, row, out, accumulate);
    default:
      return sum_columns<0, acc_t, lanes>(x, row, out, accumulate);
  }
}

template <typename acc_t, int lanes>
MRCNN_TARGET void average(const Sums<acc_t>& y, const Sums<acc_t>& x, const Grid<const acc_t>& in,
                          acc_t* row, const Grid<acc_t>& out, bool accumulate) {
  Lanes<acc_t, lanes>::of(0).store(row + in.width * lanes);
  for (int64_t i = 0; i < y.count; ++i) {
    const int64_t rows = y.starts[i + 1] - y.starts[i];
    acc_t* to = out.data + i * out.row_stride;
    if (rows > 0 && x.each > 0) {
      sum_rows<acc_t, lanes>(y.terms + y.starts[i], rows, in, row);
      sum_columns<acc_t, lanes>(x, row, to, accumulate);
    } else if (!accumulate) {
      for (int64_t j = 0; j < x.count; ++j) Lanes<acc_t, lanes>::of(0).store(to + j * lanes);
    }
  }
}
