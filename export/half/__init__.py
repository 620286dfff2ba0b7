"""fp32 graph -> typed fp16 or bf16 graph, with fp32 where half precision would not hold."""
