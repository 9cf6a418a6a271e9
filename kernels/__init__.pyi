from .rows import RowStatistics as RowStatistics
from .rows import row_statistics as row_statistics
