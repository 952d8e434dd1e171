// Planes of a tensor to slabs and back. Included by roi_align_isa.h alone, inside its namespace.

/// n elements, `stride` apart, as one vector; fewer than fill it are followed by zeros.
template <typename T, typename acc_t, int n>
MRCNN_INLINE Vector<acc_t, n> load_run(const T* from, int64_t stride, int64_t count) {
  using C = Convert<T, acc_t, n>;
  if (stride == 1 && count == n) return C::widen(load<typename C::Raw>(from));
  T some[n] = {};
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(&some[i], from + i * stride, sizeof(T));
  return C::widen(load<typename C::Raw>(some));
}

template <typename T, typename acc_t, int n>
MRCNN_INLINE void store_run(Vector<acc_t, n> v, T* to, int64_t stride, int64_t count) {
  using C = Convert<T, acc_t, n>;
  const auto raw = C::narrow(v);
  if (stride == 1 && count == n) return store(to, raw);
  T some[n];
  store(some, raw);
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i * stride, &some[i], sizeof(T));
}

/// `count` pixels in a line, `stride` apart, of channels that are planes: squares of channels and
/// pixels are transposed in registers. The last square overlaps the one before it.
template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void pack_line(const Plane<const T>& from, const T* line, int64_t stride,
                            int64_t count, acc_t* slab) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  for (int64_t at = 0; at < count; at += n) {
    const int64_t x = count >= n && at + n > count ? count - n : at;
    const int64_t pixels = count - x < n ? count - x : n;
    for (int lane = 0; lane < lanes; lane += n) {
      Vector<acc_t, n> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] = lane + i < from.lanes
                        ? load_run<T, acc_t, n>(
                              line + (lane + i) * from.channel_stride + x * stride, stride, pixels)
                        : Vector<acc_t, n>{};
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (i < pixels) store(slab + (x + i) * lanes + lane, square[i]);
      }
    }
  }
}

template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void unpack_line(const acc_t* slab, const Plane<T>& to, T* line, int64_t stride,
                              int64_t count) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  for (int64_t at = 0; at < count; at += n) {
    const int64_t x = count >= n && at + n > count ? count - n : at;
    const int64_t pixels = count - x < n ? count - x : n;
    for (int lane = 0; lane < lanes; lane += n) {
      Vector<acc_t, n> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] =
            i < pixels ? load<Vector<acc_t, n>>(slab + (x + i) * lanes + lane) : Vector<acc_t, n>{};
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (lane + i >= to.lanes) continue;
        store_run<T, acc_t, n>(square[i], line + (lane + i) * to.channel_stride + x * stride,
                               stride, pixels);
      }
    }
  }
}

template <typename T>
MRCNN_INLINE bool channels_innermost(const Plane<T>& plane) {
  return plane.channel_stride == 1 && plane.column_stride != 1;
}

/// Whether rows follow each other without a gap, as one long line.
template <typename T>
MRCNN_INLINE bool one_line(const Plane<T>& plane) {
  return plane.row_stride == plane.width * plane.column_stride;
}

template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void pack(const Plane<const T>& from, acc_t* slab) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  if (one_line(from) && !channels_innermost(from)) {
    return pack_line<T, acc_t, lanes>(from, from.data, from.column_stride, from.height * from.width,
                                      slab);
  }
  for (int64_t y = 0; y < from.height; ++y, slab += from.width * lanes) {
    const T* line = from.data + y * from.row_stride;
    if (!channels_innermost(from)) {
      pack_line<T, acc_t, lanes>(from, line, from.column_stride, from.width, slab);
      continue;
    }
    for (int64_t x = 0; x < from.width; ++x, line += from.column_stride) {
      for (int lane = 0; lane < lanes; lane += n) {
        const int64_t left = from.lanes - lane;
        store(slab + x * lanes + lane, load_run<T, acc_t, n>(line + lane, 1,
                                                             left < 0   ? 0
                                                             : left < n ? left
                                                                        : n));
      }
    }
  }
}

/// Copies past the caches. Memory that is only written need not be read first.
MRCNN_TARGET inline void stream(const void* from, void* to, size_t bytes) {
#if defined(__SSE2__)
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  const size_t head = -reinterpret_cast<uintptr_t>(target) % kVectorBytes;
  size_t done = head < bytes ? head : bytes;
  __builtin_memcpy(target, source, done);
  for (; done + kVectorBytes <= bytes; done += kVectorBytes) {
#if MRCNN_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + done),
                        _mm512_loadu_si512(source + done));
#elif MRCNN_VECTOR_BYTES == 32
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + done),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + done)));
#else
    _mm_stream_si128(reinterpret_cast<__m128i*>(target + done),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + done)));
#endif
  }
  __builtin_memcpy(target + done, source + done, bytes - done);
#else
  __builtin_memcpy(to, from, bytes);
#endif
}

/// `scratch` has the size of the slab.
template <typename T, typename acc_t, int lanes, typename Scratch>
MRCNN_TARGET void unpack(const acc_t* slab, const Plane<T>& to, Scratch* scratch) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  const int64_t count = to.height * to.width;
  if (one_line(to) && !channels_innermost(to)) {
    if (!to.streamed || to.column_stride != 1 || to.channel_stride != count) {
      return unpack_line<T, acc_t, lanes>(slab, to, to.data, to.column_stride, count);
    }
    static_assert(sizeof(T) <= sizeof(Scratch));
    auto* line = reinterpret_cast<T*>(scratch);
    unpack_line<T, acc_t, lanes>(slab, to, line, 1, count);
    return stream(line, to.data, to.lanes * count * sizeof(T));
  }
  for (int64_t y = 0; y < to.height; ++y, slab += to.width * lanes) {
    T* line = to.data + y * to.row_stride;
    if (!channels_innermost(to)) {
      unpack_line<T, acc_t, lanes>(slab, to, line, to.column_stride, to.width);
      continue;
    }
    for (int64_t x = 0; x < to.width; ++x, line += to.column_stride) {
      for (int lane = 0; lane < to.lanes; lane += n) {
        const int64_t left = to.lanes - lane;
        store_run<T, acc_t, n>(load<Vector<acc_t, n>>(slab + x * lanes + lane), line + lane, 1,
                               left < n ? left : n);
      }
    }
  }
}
